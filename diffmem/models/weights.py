# SPDX-License-Identifier: Apache-2.0
"""Files of weights as arrays: npz, safetensors, or PyTorch's own (extra).

  .npz           name -> array; nothing but numbers is read from it
  .safetensors   name -> array (extra: torch)
  .pt .pth .ckpt PyTorch's pickles, read with weights_only=True, which executes
                 nothing (extra: torch)

Without the extra here, write an npz where there is PyTorch:

  state = torch.load("ckpt.pt", map_location="cpu", weights_only=True)
  numpy.savez("ckpt.npz", **{k: v.float().numpy()
                             for k, v in state["ema_model"].items()})
"""

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffmem import workdir
from diffmem.arrays import Float

PARTS = ("ema_model", "ema", "net_model", "state_dict")


def read(path: str | os.PathLike) -> dict[str, Float[np.ndarray, "..."]]:
  """Name -> float array.

  Of a checkpoint with several models, the average of the weights ("ema_model")
  is taken where there is one.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no file of weights, or a weight is not finite.
    ImportError: it needs the extra, which is not installed.
  """
  file = workdir.path(path)
  if file.suffix not in READERS:
    raise ValueError(
      f"weights {path}: expected a file named {', '.join(READERS)}"
    )
  if not file.is_file():
    raise FileNotFoundError(f"weights {path}: no such file")
  state = READERS[file.suffix](os.fspath(file))
  for name, value in state.items():
    bad = int((~np.isfinite(value)).sum())
    if bad:
      raise ValueError(
        f"weights {path}: {bad} of {value.size} values of {name} are not finite"
      )
  return state


def _npz(path: str) -> dict[str, Float[np.ndarray, "..."]]:
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return {
        name: arrays[name]
        for name in arrays.files
        if np.issubdtype(arrays[name].dtype, np.floating)
      }
  except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as e:
    raise ValueError(f"weights {path} are not an npz of arrays ({e})") from e


def _safetensors(path: str) -> dict[str, Float[np.ndarray, "..."]]:
  try:
    import safetensors.numpy  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise _missing(path) from e
  try:
    return safetensors.numpy.load_file(path)
  except Exception as e:
    raise ValueError(f"weights {path} are no safetensors ({e})") from e


def _torch(path: str) -> dict[str, Float[np.ndarray, "..."]]:
  try:
    import torch  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise _missing(path) from e
  try:
    state = torch.load(path, map_location="cpu", weights_only=True)
  except Exception as e:
    reason = (str(e).strip().splitlines() or [""])[0][:200]
    raise ValueError(
      f"weights {path} cannot be read without executing what is in them "
      f"({type(e).__name__}: {reason}); save the state dict alone"
    ) from e
  state = _part(state)
  tensors = {k: v for k, v in state.items() if torch.is_tensor(v)}
  if not tensors:
    raise ValueError(
      f"weights {path} hold no state dict, only {', '.join(map(str, state))}"
    )
  return {
    name: value.float().numpy()
    for name, value in tensors.items()
    if value.is_floating_point()
  }


def _part(state: Any) -> Mapping[str, Any]:
  if not isinstance(state, Mapping):
    return {type(state).__name__: None}
  for part in PARTS:
    if isinstance(state.get(part), Mapping):
      return state[part]
  return state


def _missing(path: str) -> ImportError:
  return ImportError(
    f'weights {path} need an extra: pip install "diffmem[torch]", or write '
    "an npz file where PyTorch is (see diffmem.models.weights)"
  )


READERS = {
  ".npz": _npz,
  ".safetensors": _safetensors,
  ".pt": _torch,
  ".pth": _torch,
  ".ckpt": _torch,
}

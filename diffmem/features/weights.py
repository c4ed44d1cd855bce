# SPDX-License-Identifier: Apache-2.0
"""Which weights made an embedding: sha256 of files."""

import hashlib
import io
import os

import numpy as np

from diffmem import workdir


def digest(path: str | os.PathLike) -> str:
  """sha256 of a file, or of a folder's safetensors and config.json.

  Raises FileNotFoundError where there are none.
  """
  path = workdir.path(path)
  files = [path]
  if path.is_dir():
    files = sorted(
      file
      for file in path.iterdir()
      if file.suffix == ".safetensors" or file.name == "config.json"
    )
  if not any(file.is_file() and file.suffix != ".json" for file in files):
    raise FileNotFoundError(
      f"{path} holds no weights: expected a file, or a folder with "
      "*.safetensors and config.json"
    )
  found = hashlib.sha256()
  for file in files:
    with file.open("rb") as f:
      while block := f.read(2**20):
        found.update(block)
  return found.hexdigest()


def of_arrays(arrays: dict[str, np.ndarray]) -> str:
  """sha256 of arrays by name: dtypes, shapes and bytes."""
  found = hashlib.sha256()
  for name in sorted(arrays):
    value = np.ascontiguousarray(arrays[name])
    found.update(f"{name} {value.dtype.str} {value.shape}".encode())
    found.update(value.tobytes())
  return found.hexdigest()


def write(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
  """Writes an .npz whole or not at all."""
  packed = io.BytesIO()
  np.savez(packed, **arrays)  # pyright: ignore[reportArgumentType]
  workdir.write_bytes(path, packed.getvalue())

# SPDX-License-Identifier: Apache-2.0
"""Opening a diffusers pipeline that somebody else made, as data only.

A folder that `DiffusionPipeline.save_pretrained` wrote, or a name on the hub,
whose files are then fetched first. Nothing in it is executed: weights are
read from safetensors alone, never from pickles; a folder with Python files,
or with parts of other libraries than diffusers and transformers, is refused.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

DTYPES = ("float32", "float16", "bfloat16")
LIBRARIES = ("diffusers", "transformers")
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")


def libraries() -> tuple[Any, Any]:
  """The modules torch and diffusers.

  Raises:
    ImportError: they are not installed; names the extra.
  """
  try:
    import diffusers  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # noqa: F401  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise ImportError(
      "diffusers pipelines need an extra that is not installed "
      f'({e.name or e}): pip install "diffmem[torch]"'
    ) from e
  return torch, diffusers


def locate(source: str | os.PathLike) -> pathlib.Path:
  """The folder of a pipeline: a path, or what the hub has under that name.

  Raises:
    FileNotFoundError: there is no such folder, and it is no name either.
    ValueError: it is a single file of weights.
    OSError: the hub did not give it.
  """
  path = pathlib.Path(os.path.expanduser(os.fspath(source)))
  if path.is_dir():
    return path
  if path.exists():
    raise ValueError(
      f"pipeline {source} is a file: give the folder that diffusers' "
      "save_pretrained writes (model_index.json and one folder for each part)"
    )
  if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)):
    raise FileNotFoundError(
      f"pipeline {source}: no such folder, and not a name on the hub "
      "(OWNER/NAME) either"
    )
  _, diffusers = libraries()
  try:
    with quiet():
      return pathlib.Path(
        diffusers.DiffusionPipeline.download(
          os.fspath(source), use_safetensors=True, trust_remote_code=False
        )
      )
  except Exception as e:
    reason = " ".join(str(e).split())[:200]
    raise OSError(
      f"pipeline {source}: no such folder here, and the hub did not give it "
      f"as safetensors ({type(e).__name__}: {reason})"
    ) from e


def digest(folder: pathlib.Path) -> str:
  """sha256 over the names and contents of all files that loading may read."""
  total = hashlib.sha256()
  for file in _files(folder):
    with file.open("rb") as f:
      content = hashlib.file_digest(f, "sha256").hexdigest()
    name = file.relative_to(folder).as_posix()
    total.update(f"{content} {name}\n".encode())
  return total.hexdigest()


def check(folder: pathlib.Path) -> str:
  """Looks at the folder without loading anything; the pipeline's class name.

  Raises:
    ImportError: the extra is not installed.
    FileNotFoundError: it has no model_index.json.
    ValueError: it holds code, pickles in place of safetensors, or parts of
      other libraries.
  """
  file = folder / "model_index.json"
  if not file.exists():
    raise FileNotFoundError(
      f"pipeline {folder} has no model_index.json: give the folder that "
      "diffusers' save_pretrained writes"
    )
  try:
    index = json.loads(file.read_text(encoding="utf-8"))
    name = index["_class_name"]
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(f"{file} is not the index of a pipeline ({e!r})") from e
  code = [f for f in _files(folder) if f.suffix == ".py"]
  if code or not isinstance(name, str):
    raise ValueError(
      f"pipeline {folder} brings its own code ({code[0] if code else name}), "
      "which diffmem does not execute: use a pipeline class of diffusers"
    )
  _check_parts(folder, index)
  _check_weights(folder)
  return name


def load(folder: pathlib.Path, *, dtype: str, device: str | None) -> Any:
  """The pipeline, on the device, with its own progress bar off.

  Args:
    folder: from `locate`.
    dtype: of the weights, one of DTYPES.
    device: a torch device; None for the first GPU, or the CPU without one.

  Raises:
    ImportError: the extra is not installed.
    ValueError: see `check`, or diffusers cannot load it.
  """
  torch, diffusers = libraries()
  if dtype not in DTYPES:
    raise ValueError(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
  name = check(folder)
  kind = getattr(diffusers, name, None)
  base = diffusers.DiffusionPipeline
  if not (isinstance(kind, type) and issubclass(kind, base)):
    raise ValueError(
      f"pipeline {folder} is a {name}, which is no pipeline of diffusers "
      f"{diffusers.__version__}: install the version that wrote it"
    )
  if device is None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
  try:
    with quiet():
      pipe = diffusers.DiffusionPipeline.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        variant=_variant(folder),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
      )
      pipe.to(device)
  except Exception as e:
    reason = " ".join(str(e).split())[:300]
    raise ValueError(
      f"pipeline {folder} cannot be loaded ({type(e).__name__}: {reason})"
    ) from e
  pipe.set_progress_bar_config(disable=True)
  return pipe


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Keeps the log lines and bars of the two libraries off the terminal."""
  from diffusers.utils import (  # pyright: ignore[reportMissingImports]
    logging as one,
  )
  from transformers.utils import (  # pyright: ignore[reportMissingImports]
    logging as two,
  )

  before = [
    (module, module.get_verbosity(), module.is_progress_bar_enabled())
    for module in (one, two)
  ]
  for module, _, _ in before:
    module.set_verbosity_error()
    module.disable_progress_bar()
  try:
    yield
  finally:
    for module, verbosity, bar in before:
      module.set_verbosity(verbosity)
      if bar:
        module.enable_progress_bar()


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(
    file
    for file in folder.rglob("*")
    if file.is_file()
    and not any(part.startswith(".") for part in file.relative_to(folder).parts)
  )


def _check_parts(folder: pathlib.Path, index: dict) -> None:
  _, diffusers = libraries()
  for part, kind in index.items():
    if not isinstance(kind, list) or len(kind) != 2 or kind[0] is None:
      continue  # a setting of the pipeline, or a part that it does without
    library = str(kind[0])
    if library in LIBRARIES or hasattr(diffusers.pipelines, library):
      continue  # the latter is a family of pipelines with parts of its own
    raise ValueError(
      f"pipeline {folder}: its part {part!r} is of the library {library!r}, "
      f"which diffmem does not import: only {' and '.join(LIBRARIES)} are"
    )


def _check_weights(folder: pathlib.Path) -> None:
  for part in sorted({file.parent for file in _files(folder)}):
    names = [file.name for file in part.iterdir() if file.is_file()]
    pickles = [name for name in names if name.endswith(PICKLES)]
    safe = any(name.endswith(".safetensors") for name in names)
    if pickles and not safe:
      raise ValueError(
        f"{part / pickles[0]} is a pickle, which can execute code and is never "
        "loaded: convert it with save_pretrained(..., safe_serialization="
        "True), or take a revision with .safetensors files"
      )


def _variant(folder: pathlib.Path) -> str | None:
  """The variant of the weights ("fp16") where there is no plain one."""
  names = [f.name for f in _files(folder) if f.suffix == ".safetensors"]
  variants = [re.search(r"\.(fp16|bf16)[.-]", name) for name in names]
  found = {match[1] for match in variants if match}
  return found.pop() if len(found) == 1 and all(variants) else None

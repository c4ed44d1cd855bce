# SPDX-License-Identifier: Apache-2.0
"""Arrays of images from outside: npz, npy, zarr, or given in Python.

    images             uint8 [n h w] or [n h w c], c = 1 or 3 (or `arr_0`)
    prompts, captions  unicode [n], the prompt of each image; optional
    names              unicode [n]; optional

They are read block by block: no more than a block of images is in memory.
Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorstore as ts

from diffmem import workdir
from diffmem.arrays import UInt8
from diffmem.data import arrays_file
from diffmem.data.images import MAX_PIXELS
from diffmem.sample import bank, grouping

BLOCK_BYTES = 2**24
IMAGES = ("images", "arr_0")
PROMPTS = ("prompts", "captions")


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Images of one size, and what is known of them.

  Attributes:
    kind: "npz", "npy", "zarr", "bank" or "arrays".
    shape: [n h w c]; n is None where it is not known.
    digest: changes when the file does.
    blocks: from a row on, uint8 [b h w c] until the end.
    texts: the prompt of each image, None for none; or None.
    names: of the images; or None.
  """

  kind: str
  shape: tuple[Any, ...]
  digest: str | None
  blocks: Callable[[int], Iterator[UInt8[np.ndarray, "b h w c"]]]
  texts: Sequence[str | None] | None = None
  names: Sequence[str] | None = None


def is_zarr(place: pathlib.Path) -> pathlib.Path | None:
  """The zarr array at a place: itself, or the images of a bank in it."""
  for inside in ("", "images", "sample/images"):
    if any((place / inside / x).is_file() for x in ("zarr.json", ".zarray")):
      return place / inside
  return None


def open_zarr(place: pathlib.Path) -> Arrays:
  """A zarr array, version 2 or 3; of a bank with its prompts and names.

  Raises:
    ValueError: it is no array of images.
  """
  driver = "zarr3" if (place / "zarr.json").is_file() else "zarr"
  location = {"driver": "file", "path": os.path.abspath(place) + "/"}
  try:
    array = ts.open({"driver": driver, "kvstore": location}, read=True).result()
  except ValueError as e:
    reason = str(e).split(" [")[0]
    raise ValueError(f"sample.path={place} is no zarr array ({reason})") from e
  marks = [
    [path.relative_to(place).as_posix(), about.st_size, about.st_mtime_ns]
    for path in sorted(place.rglob("*"))
    for about in [path.stat()]
    if path.is_file()
  ]
  found = _from_array(
    _Indexed(array), "zarr", workdir.digest(marks), str(place)
  )
  if not (place.parent / "meta.json").is_file():
    return found
  about = bank.open_bank(place)
  texts = None
  if about.prompts is not None and about.prompt_ids is not None:
    texts = [None if i < 0 else about.prompts[i] for i in about.prompt_ids]
  return dataclasses.replace(found, kind="bank", texts=texts, names=about.names)


def open_npz(place: pathlib.Path) -> Arrays:
  """An .npz or .npy file.

  Raises:
    ValueError: it cannot be read, or is no array of images.
  """
  about = place.stat()
  mark = workdir.digest([place.name, about.st_size, about.st_mtime_ns])
  if place.suffix.lower() == ".npy":
    return _from_stream(lambda: place.open("rb"), "npy", mark, str(place))
  try:
    with zipfile.ZipFile(place) as archive:
      known = [name.removesuffix(".npy") for name in archive.namelist()]
    key = next((name for name in IMAGES if name in known), None)
    if key is None:
      raise ValueError(
        f"sample.path={place} has no 'images', only {known}: rename the key"
      )
    texts, names = _strings(place, known)
  except (zipfile.BadZipFile, EOFError, zlib.error) as e:
    raise ValueError(
      f"sample.path={place} is not a readable npz file ({e})"
    ) from e
  found = _from_stream(
    lambda: _member(place, f"{key}.npy"), "npz", mark, str(place)
  )
  for what, values in (("prompts", texts), ("names", names)):
    _check_length(what, values, found.shape[0], str(place))
  return dataclasses.replace(found, texts=texts, names=names)


def given(
  images: Any,
  prompts: Sequence[str | None] | None,
  names: Sequence[str] | None,
) -> Arrays:
  """Images in Python: an array, or anything that yields blocks of them.

  Raises:
    ValueError: they are no images, or the lists have other lengths.
  """
  if hasattr(images, "shape") and hasattr(images, "dtype"):
    digest = workdir.digest([_hash(images), prompts, names])
    found = _from_array(images, "arrays", digest, "generations")
    count = found.shape[0]
  else:
    found, count = _from_blocks(iter(images)), None
  texts = None
  if prompts is not None:
    texts = [x if x is None else grouping.clean(x) for x in prompts]
  shown = None if names is None else [grouping.clean(name) for name in names]
  for what, values in (("prompts", texts), ("names", shown)):
    _check_length(what, values, count, "generations")
  return dataclasses.replace(found, texts=texts, names=shown)


def _check_length(
  what: str, values: Sequence | None, count: int | None, shown: str
) -> None:
  if values is not None and count is not None and len(values) != count:
    raise ValueError(f"{shown}: {len(values)} {what} for {count} images")


class _Indexed:
  """A tensorstore whose slices are NumPy arrays."""

  def __init__(self, array: ts.TensorStore):
    self._array = array
    self.shape, self.dtype = tuple(array.shape), array.dtype.numpy_dtype

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: slice) -> np.ndarray:
    start, stop, _ = rows.indices(len(self))
    return np.asarray(self._array[start:stop].read().result())


def _from_array(array: Any, kind: str, digest: str, shown: str) -> Arrays:
  if len(array.shape) not in (3, 4) or not len(array):
    raise ValueError(
      f"{shown} has shape {list(array.shape)}: expected images [n h w c]"
    )
  first = arrays_file.as_images(np.asarray(array[:1]), shown)

  def blocks(start: int) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    step = _rows_in_block(first.shape[1:])
    for row in range(start, len(array), step):
      yield arrays_file.as_images(np.asarray(array[row : row + step]), shown)

  return Arrays(kind, (len(array), *first.shape[1:]), digest, blocks)


def _from_blocks(given: Iterator[Any]) -> Arrays:
  """Blocks that can be had once; whoever yields them need not know how many."""
  first = next(given, None)
  if first is None:
    raise ValueError("generations: no block of images came")
  first = arrays_file.as_images(np.asarray(first), "generations")

  def blocks(start: int) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    if start:
      raise ValueError("blocks cannot be read again")
    for block in itertools.chain([first], given):
      block = arrays_file.as_images(np.asarray(block), "generations")
      if block.shape[1:] != first.shape[1:]:
        raise ValueError(
          f"generations: a block has images {list(block.shape[1:])}, the "
          f"first has {list(first.shape[1:])}"
        )
      yield block

  return Arrays("blocks", (None, *first.shape[1:]), None, blocks)


def _from_stream(
  opener: Callable[[], AbstractContextManager[Any]],
  kind: str,
  digest: str,
  shown: str,
) -> Arrays:
  """An array in .npy format, read from the start of its file."""
  with _refused(shown), opener() as f:
    shape, dtype = _header(f, shown)
    count, row = shape[0], shape[1:]
    size = math.prod(row) * dtype.itemsize
    first = np.frombuffer(_exactly(f, size), dtype).reshape(1, *row)
  first = arrays_file.as_images(first, shown)

  def blocks(start: int) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    step = _rows_in_block(row)
    with _refused(shown), opener() as f:
      _header(f, shown)
      for at in range(0, start, step):
        _exactly(f, min(step, start - at) * size)
      for at in range(start, count, step):
        b = min(step, count - at)
        values = np.frombuffer(_exactly(f, b * size), dtype)
        yield arrays_file.as_images(values.reshape(b, *row), shown)

  return Arrays(kind, (count, *first.shape[1:]), digest, blocks)


def _header(
  f: io.BufferedIOBase, shown: str
) -> tuple[tuple[int, ...], np.dtype]:
  read = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  version = np.lib.format.read_magic(f)
  if version not in read:
    raise ValueError(f"its format is {version}")
  shape, by_columns, dtype = read[version](f)
  if dtype.hasobject:
    raise ValueError(
      "it holds Python objects, which are never unpickled: save uint8 images"
    )
  if len(shape) not in (3, 4) or 0 in shape or by_columns:
    raise ValueError(
      f"its shape is {list(shape)}{', by columns' if by_columns else ''}: "
      "expected images [n h w c], row by row"
    )
  if math.prod(shape[1:]) > 4 * MAX_PIXELS:
    raise ValueError(f"an image of {list(shape[1:])} is over the limit")
  return shape, dtype


def _exactly(f: io.BufferedIOBase, size: int) -> bytes:
  content = f.read(size)
  if len(content) != size:
    raise EOFError("it ends too early")
  return content


@contextlib.contextmanager
def _refused(shown: str) -> Iterator[None]:
  """Whatever a damaged file raises, as one error that names it."""
  try:
    yield
  except (zipfile.BadZipFile, EOFError, zlib.error, ValueError) as e:
    raise ValueError(f"sample.path={shown} cannot be read: {e}") from e


@contextlib.contextmanager
def _member(place: pathlib.Path, name: str) -> Iterator[Any]:
  with zipfile.ZipFile(place) as archive, archive.open(name) as f:
    yield f


def _strings(
  place: pathlib.Path, known: Sequence[str]
) -> tuple[list[str] | None, list[str] | None]:
  """The prompts and the names in an npz, where there are some."""
  found: list[list[str] | None] = []
  for keys in (PROMPTS, ("names",)):
    key = next((key for key in keys if key in known), None)
    if key is None:
      found.append(None)
      continue
    with _refused(str(place)), np.load(place, allow_pickle=False) as file:
      values = arrays_file.as_captions(file[key], str(place))
    found.append([grouping.clean(text) for text in values.tolist()])
  return found[0], found[1]


def _rows_in_block(shape: tuple[int, ...]) -> int:
  return max(1, BLOCK_BYTES // math.prod(shape))


def _hash(images: Any) -> str:
  """sha256 of an array, a block at a time."""
  digest = hashlib.sha256(f"{images.dtype}{tuple(images.shape)}".encode())
  step = _rows_in_block(tuple(images.shape[1:]) or (1,))
  for row in range(0, len(images), step):
    block = np.ascontiguousarray(images[row : row + step])
    digest.update(block.view(np.uint8).data if block.size else b"")
  return digest.hexdigest()

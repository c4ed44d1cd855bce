# SPDX-License-Identifier: Apache-2.0
"""A store of those images that turn out to be good, in their order.

How many there are is known at the end: some files show only when decoded that
they are damaged. So ids are given out one by one, a chunk is written when it
is full, and a small file beside it says how far it got:

  images/c/17/...    the images
  decoded/17.json    {"end": candidates read so far, "left_out": [[candidate,
                      reason], ...], "sha256": of the chunk}

A run that was stopped goes on behind the last chunk that has both. The store
starts with a row for every candidate and is shortened at the end.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator

import numpy as np

from diffmem import store, workdir
from diffmem.arrays import Int, UInt8
from diffmem.progress import Progress

CHUNK_BYTES = 2**26
UNKNOWN = 2**40  # rows of a store while nobody knows how many there are


@dataclasses.dataclass(frozen=True)
class Filled:
  """What became of the candidates.

  Attributes:
    kept: candidate of each image, ascending.
    left_out: candidate -> why it is not in the store.
    sha256: of the hashes of all chunks.
  """

  kept: Int[np.ndarray, " n"]
  left_out: dict[int, str]
  sha256: str


def chunk_rows(batch: int, shape: tuple[int, ...]) -> int:
  """Images in a chunk: `batch`, or fewer where they are large."""
  return max(1, min(batch, CHUNK_BYTES // int(np.prod(shape))))


def fill(
  folder: os.PathLike,
  read: Callable[[int], Iterator[UInt8[np.ndarray, "h w c"] | str]],
  *,
  candidates: int | None,
  shape: tuple[int, ...],
  batch: int,
  beside: Callable[[Filled], None],
  progress: bool = True,
) -> Filled:
  """Writes <folder>/images.

  Args:
    folder: where the store and its journal lie.
    read: from a candidate on, each image [h w c] or why there is none.
    candidates: how many there are, None where that is not known.
    shape: [h w c].
    batch: images in a chunk, see chunk_rows.
    beside: is called before the store is complete, to write what belongs
      to it.
    progress: show the rate and the time left.

  Raises:
    ValueError: no candidate is an image, or a chunk is damaged.
  """
  rows = UNKNOWN if candidates is None else candidates
  images = _open(workdir.path(folder) / "images", rows, shape, batch)
  images.verify()
  journal = _Journal(folder, images)
  with Progress(
    candidates or 0,
    what="import",
    unit="images",
    done=journal.end,
    enabled=progress,
  ) as bar:
    last, end, left_out = _full_chunks(images, journal, read, bar)
  filled = _result(journal.entries, last, end, left_out)
  if not len(filled.kept):
    first = next(iter(filled.left_out.values()), "there are none")
    raise ValueError(
      f"none of the {end} candidates is a usable image; the first {first}"
    )
  beside(filled)
  images = store.shorten(images, len(filled.kept))
  if len(last):
    journal.write(images, last, end, left_out)
  return filled


def _full_chunks(
  images: store.Store, journal: "_Journal", read: Callable, bar: Progress
) -> tuple[UInt8[np.ndarray, "b h w c"], int, list]:
  """Writes every full chunk; the rest: images, candidates read, left out."""
  buffer = np.empty((images.chunk, *images.shape[1:]), np.uint8)
  size, end, left_out = 0, journal.end, []
  for result in read(end):
    if isinstance(result, str):
      left_out.append([end, result])
    else:
      buffer[size] = result
      size += 1
    end += 1
    if size == images.chunk:
      journal.write(images, buffer, end, left_out)
      size, left_out = 0, []
    bar.update(1)
  return buffer[:size], end, left_out


class _Journal:
  """Which candidates lie in which chunk."""

  def __init__(self, folder: os.PathLike, images: store.Store):
    self._folder = workdir.path(folder) / "decoded"
    self._folder.mkdir(parents=True, exist_ok=True)
    self.entries: list[dict] = []
    there = set(images.written())
    while len(self.entries) in there and self._file().exists():
      self.entries.append(workdir.read_json(self._file()))

  def _file(self):
    return self._folder / f"{len(self.entries)}.json"

  @property
  def end(self) -> int:
    """The first candidate that is in no chunk."""
    return self.entries[-1]["end"] if self.entries else 0

  def write(self, images: store.Store, values, end: int, left_out) -> None:
    """Writes the next chunk, then that it is there."""
    images.write(len(self.entries), values)
    entry = _entry(values, end, left_out)
    workdir.write_json(self._file(), entry)
    self.entries.append(entry)


def _entry(
  values: UInt8[np.ndarray, "b h w c"], end: int, left_out: list
) -> dict:
  return {
    "end": end,
    "left_out": left_out,
    "sha256": hashlib.sha256(values.data).hexdigest(),
  }


def _result(
  entries: list[dict],
  values: UInt8[np.ndarray, "b h w c"],
  end: int,
  left_out: list,
) -> Filled:
  """Of the chunks written and the one that is not yet, if any."""
  if len(values):
    entries = [*entries, _entry(values, end, left_out)]
  found = [pair for entry in entries for pair in entry["left_out"]]
  reasons = dict([*found, *([] if len(values) else left_out)])
  good = np.ones(end, bool)
  good[list(reasons)] = False
  hashes = [entry["sha256"] for entry in entries]
  return Filled(np.flatnonzero(good), reasons, workdir.digest(hashes))


def _open(
  path: os.PathLike, rows: int, shape: tuple[int, ...], batch: int
) -> store.Store:
  """The store; one that was shortened already stays so."""
  path = workdir.path(path)
  if (path / "zarr.json").exists():
    return store.open(path, write=True)
  size = min(chunk_rows(batch, shape), rows)
  return store.create(path, shape=(rows, *shape), dtype=np.uint8, chunk=size)

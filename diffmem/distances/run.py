# SPDX-License-Identifier: Apache-2.0
"""A whole search on disk: resumable, in memory that does not grow with it.

`<folder>/indices` and `<folder>/squared`, int64 [n k], hold for each query
the rows of its k nearest references and their exact squared distances,
nearest first. A chunk is `block` queries; one that both arrays hold is not
computed again. Queries and references may be stores larger than memory.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from diffmem import processes, store
from diffmem.distances import knn, mirrored
from diffmem.distances.checks import (
  check_images,
  check_positive,
  check_same_shape,
)
from diffmem.progress import Progress


def search(
  folder: str | os.PathLike,
  queries,
  references,
  *,
  k: int,
  block: int,
  mirror: bool = False,
  progress: bool = True,
) -> dict[str, Any]:
  """Writes the nearest references of each query; returns what was searched.

  Args:
    folder: where `indices` and `squared` go.
    queries: uint8 images [n h w c], an array or a store read block by block.
    references: uint8 images [m h w c], an array or a store; one that is too
      large to be held is read once for many blocks.
    k: neighbours a query; fewer where there are fewer references.
    block: queries at a time, and in a chunk.
    mirror: search over each reference and its mirror image, of which the
      nearer counts.
    progress: show the rate and the time left.

  Returns:
    queries, references: how many; k: the neighbours that were kept; form,
    selection: how they were computed.

  Raises:
    ValueError: dtypes, shapes or k that cannot be searched, an empty set, a
      store that is still being written.
  """
  parent, name = os.path.split(os.fspath(folder))
  found = search_all(
    parent,
    queries,
    {name: references},
    k=k,
    block=block,
    mirror=mirror,
    progress=progress,
  )
  return found[name]


def search_all(
  folder: str | os.PathLike,
  queries,
  references: Mapping[str, Any],
  *,
  k: int,
  block: int,
  mirror: bool = False,
  progress: bool = True,
) -> dict[str, dict[str, Any]]:
  """`search` against several sets, the queries read once for all of them.

  references: name -> set; `<folder>/<name>` takes its result.
  """
  check_images("queries", queries)
  for images in references.values():
    check_images("references", images)
    check_same_shape(queries.shape[1:], images.shape[1:])
  if k < 1:
    raise ValueError(f"k = {k} neighbours, expected at least 1")
  check_positive("block", block)
  n = queries.shape[0]
  block = min(block, n)
  if mirror:
    mirrored.check(queries.shape[1:])
  options = {"hold": knn.HOLD // len(references), "mirror": mirror}
  sets = [
    _Set(os.path.join(folder, name), images, n, k, block, options)
    for name, images in references.items()
  ]
  total = n * len(sets)
  what = " and ".join(references) if len(sets) < 3 else "distances"
  with Progress(
    total, what=what, unit="queries", done=_searched(sets), enabled=progress
  ) as bar:
    for numbers in processes.parts(
      lambda: set.intersection(*(s.look() for s in sets)),
      -(-n // block),
      what="the distances",
      meanwhile=lambda: bar.reach(_searched(sets)),
    ):
      for rows, missing in _passes(sets, n, block, numbers):
        images = np.asarray(queries[rows])
        for s in missing:
          bar.update(s.search(rows, images))
  return {name: s.about for name, s in zip(references, sets, strict=True)}


class _Set:
  """One set of references and what is on disk of the search against it."""

  def __init__(
    self,
    folder: str | os.PathLike,
    references,
    n: int,
    k: int,
    chunk: int,
    options: dict,
  ):
    k = min(k, references.shape[0])
    self._chunk, self._n = chunk, n
    self._arrays = {
      name: store.create(
        os.path.join(folder, name), shape=(n, k), dtype="int64", chunk=chunk
      )
      for name in ("indices", "squared")
    }
    self.index = knn.Index(references, block=chunk, **options)
    self.done: set[int] = set()
    self.look()
    self.about = {
      "queries": n,
      "references": references.shape[0],
      "k": k,
      "form": self.index.form,
      "selection": self.index.selection,
    }

  def look(self) -> set[int]:
    """The chunks that both arrays hold now."""
    written = (set(a.written()) for a in self._arrays.values())
    self.done = set.intersection(*written)
    return self.done

  def searched(self) -> int:
    """Queries whose chunk was there at the last look."""
    rows = self._arrays["indices"].rows
    return sum(rows(i).stop - rows(i).start for i in self.done)

  def search(self, rows: slice, images: np.ndarray) -> int:
    """Searches some whole chunks and writes those that are missing."""
    ids, squared = self.index.search(images, self.about["k"])
    count = 0
    for start in range(0, len(images), self._chunk):
      number = (rows.start + start) // self._chunk
      if number in self.done:
        continue
      part = slice(start, start + self._chunk)
      self._arrays["squared"].write(number, squared[part])
      self._arrays["indices"].write(number, ids[part])
      count += len(ids[part])
    return count


def _searched(sets: list[_Set]) -> int:
  """Searches, a query against a set, that are on disk now."""
  for s in sets:
    s.look()
  return sum(s.searched() for s in sets)


def _passes(
  sets: list[_Set], n: int, chunk: int, mine: list[int]
) -> Iterator[tuple[slice, list[_Set]]]:
  """(queries, sets that lack some): a block, or one stream's worth.

  mine: the chunks to be searched, ascending.
  """
  chunks = max(1, max(s.index.group for s in sets) // chunk)
  while mine:
    numbers = [i for i in mine if i < mine[0] + chunks]
    mine = mine[len(numbers) :]
    lacking = [s for s in sets if {*numbers} - s.done]
    missing = set().union(*({*numbers} - s.done for s in lacking))
    if missing:
      stop = min((max(missing) + 1) * chunk, n)
      yield slice(min(missing) * chunk, stop), lacking

# SPDX-License-Identifier: Apache-2.0
"""A whole search on disk: resumable, in memory that does not grow with it.

`<folder>/indices` and `<folder>/squared`, int64 [n k], hold for each query
the rows of its k nearest references and their exact squared distances,
nearest first. A chunk is `block` queries; one that both arrays hold is not
computed again.
"""

import os

import numpy as np

from diffmem import store
from diffmem.distances import knn
from diffmem.progress import Progress


def search(
  folder: str | os.PathLike,
  queries,
  references: np.ndarray,
  *,
  k: int,
  block: int,
  progress: bool = True,
) -> dict[str, int]:
  """Writes the nearest references of each query; returns what was searched.

  Args:
    folder: where `indices` and `squared` go.
    queries: uint8 images [n h w c], an array or a store read block by block.
    references: uint8 images [m h w c].
    k: neighbours a query; fewer where there are fewer references.
    block: queries at a time, and in a chunk.
    progress: show the rate and the time left.

  Returns:
    queries, references: how many; k: the neighbours that were kept.
  """
  knn.check_images("queries", queries)
  knn.check_images("references", references)
  knn.check_same_shape(queries.shape[1:], references.shape[1:])
  if k < 1:
    raise ValueError(f"k = {k} neighbours, expected at least 1")
  n, m = queries.shape[0], len(references)
  k = min(k, m)
  name = os.path.basename(os.fspath(folder))
  arrays = _open(folder, (n, k), min(block, n))
  chunk = arrays["indices"].chunk
  done = set.intersection(*(set(a.written()) for a in arrays.values()))
  index = None
  finished = min(len(done) * chunk, n)
  with Progress(
    n, what=name, unit="queries", done=finished, enabled=progress
  ) as bar:
    for number in range(-(-n // chunk)):
      if number in done:
        continue
      if index is None:
        index = knn.Index(references)
      rows = np.asarray(queries[number * chunk : (number + 1) * chunk])
      ids, squared = index.search(knn.pad(rows, chunk), k)
      arrays["squared"].write(number, squared[: len(rows)])
      arrays["indices"].write(number, ids[: len(rows)])
      bar.update(len(rows))
  return {"queries": n, "references": m, "k": k}


def _open(
  folder: str | os.PathLike, shape: tuple[int, int], chunk: int
) -> dict[str, store.Store]:
  return {
    name: store.create(
      os.path.join(folder, name), shape=shape, dtype="int64", chunk=chunk
    )
    for name in ("indices", "squared")
  }

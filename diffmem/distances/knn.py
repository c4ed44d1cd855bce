# SPDX-License-Identifier: Apache-2.0
"""Exact k nearest references of every query, without holding all pairs.

A block of queries meets one tile of references at a time. Candidates are
ordered by the pair (squared distance, id), packed in one int64

  key = squared << id_bits | id

so that the k smallest keys are the k nearest with ties going to the lower
id, whatever the tiling. Tiles come in ascending id, so that after the first
only distances strictly below a query's running k-th can enter: few do
(about k / i of them at tile i), and the host selects those faster than
`lax.top_k` does on CPU.
"""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from diffmem.arrays import AnyArray, Float, Int, UInt8
from diffmem.distances import metrics, tiled

BLOCK = 2048
TILE = 2048


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """The k nearest references of n queries, nearest first, ties by id.

  ids: row of the reference; squared: exact integer squared distance;
  distances: root mean square difference of pixels scaled to [0, 1].
  """

  ids: Int[np.ndarray, "n k"]
  squared: Int[np.ndarray, "n k"]
  distances: Float[np.ndarray, "n k"]


class Index:
  """References made ready for search: centred, on the device, in tiles."""

  def __init__(
    self, references: UInt8[np.ndarray, "m ..."], *, tile: int = TILE
  ):
    """references: uint8 images [m ...]; tile: how many meet a block at once."""
    check_images("references", references)
    _check_positive("tile", tile)
    self.count = len(references)
    self.shape = tuple(references.shape[1:])
    self.dims = int(np.prod(self.shape))
    self._id_bits = max(1, (self.count - 1).bit_length())
    if (255**2 * self.dims).bit_length() + self._id_bits > 63:
      raise ValueError(
        f"{self.count} references of {self.dims} values do not fit the "
        "64-bit search keys; search them in several parts"
      )
    self._tile = min(tile, self.count)
    self._tiles = []
    for start in range(0, self.count, self._tile):
      rows = tiled.centre(np.asarray(references[start : start + self._tile]))
      rows = pad(rows, self._tile)
      self._tiles.append((start, jax.device_put(rows), tiled.norms(rows)))

  def search(
    self, queries: UInt8[np.ndarray, "n ..."], k: int
  ) -> tuple[Int[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """(ids, squared) of the k nearest of each query; holds n * tile pairs."""
    check_images("queries", queries)
    check_same_shape(queries.shape[1:], self.shape)
    check_k(k, self.count)
    rows = tiled.centre(queries)
    row_norms = tiled.norms(rows)
    rows = jax.device_put(rows)
    best = np.empty((len(queries), 0), np.int64)
    for start, squared in self._computed(rows, row_norms):
      best = self._merge(best, start, squared, k)
    best = np.sort(best, axis=1)
    return best & ((1 << self._id_bits) - 1), best >> self._id_bits

  def _computed(
    self, rows: Int[jax.Array, "n d"], row_norms: Int[np.ndarray, " n"]
  ) -> Iterator[tuple[int, AnyArray]]:
    """(first id, squared distances) of each tile, the next one under way."""
    waiting = []
    for start, tile, tile_norms in self._tiles:
      waiting.append((start, tiled.squared(rows, tile, row_norms, tile_norms)))
      if len(waiting) == 2:
        yield waiting.pop(0)
    yield from waiting

  def _merge(
    self,
    best: Int[np.ndarray, "n k"],
    start: int,
    squared: Int[jax.Array, "n m"] | Int[np.ndarray, "n m"],
    k: int,
  ) -> Int[np.ndarray, "n j"]:
    """The k smallest keys of `best` and of one tile, the largest last."""
    count = min(self._tile, self.count - start)
    squared = np.asarray(squared)[:, :count]
    if best.shape[1] < k:
      ids = np.arange(start, start + count, dtype=np.int64)
      keys = (squared.astype(np.int64) << self._id_bits) | ids
      return _smallest(np.concatenate([best, keys], axis=1), k)
    bound = (best[:, -1] >> self._id_bits).astype(squared.dtype)
    row, column = np.nonzero(squared < bound[:, None])
    if len(row) == 0:
      return best
    keys = squared[row, column].astype(np.int64) << self._id_bits
    keys |= start + column
    touched, first, counts = np.unique(
      row, return_index=True, return_counts=True
    )
    wide = np.full(
      (len(touched), k + counts.max()), np.iinfo(np.int64).max, np.int64
    )
    wide[:, :k] = best[touched]
    line = np.repeat(np.arange(len(touched)), counts)
    wide[line, k + np.arange(len(row)) - np.repeat(first, counts)] = keys
    best[touched] = _smallest(wide, k)
    return best


def nearest(
  queries: UInt8[np.ndarray, "n ..."],
  references: UInt8[np.ndarray, "m ..."],
  k: int = 10,
  *,
  block: int = BLOCK,
  tile: int = TILE,
) -> Neighbours:
  """The k nearest references of each query, exact, ties by the lower id.

  queries, references: uint8 images of one shape. The result does not depend
  on block (queries at a time) or tile (references at a time): they bound
  the memory, block * tile squared distances.
  Raises ValueError for other dtypes, shapes that differ, empty arrays, and a
  k outside 1..m.
  """
  check_images("queries", queries)
  check_images("references", references)
  check_same_shape(queries.shape[1:], references.shape[1:])
  check_k(k, len(references))
  _check_positive("block", block)
  index = Index(references, tile=tile)
  block = min(block, len(queries))
  ids = np.empty((len(queries), k), np.int64)
  squared = np.empty((len(queries), k), np.int64)
  for start in range(0, len(queries), block):
    rows = np.asarray(queries[start : start + block])
    found = index.search(pad(rows, block), k)
    ids[start : start + block] = found[0][: len(rows)]
    squared[start : start + block] = found[1][: len(rows)]
  return Neighbours(ids, squared, metrics.rms(squared, index.dims))


def check_images(name: str, images) -> None:
  """ValueError unless images are a non-empty uint8 array [n ...]."""
  if not hasattr(images, "dtype") or not hasattr(images, "shape"):
    raise ValueError(
      f"{name} is a {type(images).__name__}, expected a uint8 array [n ...]: "
      "pass numpy.asarray(images)"
    )
  if images.dtype != np.uint8:
    raise ValueError(
      f"{name} have dtype {images.dtype}, expected uint8 (pixels 0..255): "
      "convert them, as with diffmem.arrays.to_uint8 for values in [-1, 1]"
    )
  if len(images.shape) < 2 or 0 in images.shape:
    raise ValueError(
      f"{name} have shape {tuple(images.shape)}, expected at least one image "
      "[n ...]: check that the set is not empty"
    )


def check_same_shape(queries: tuple, references: tuple) -> None:
  """ValueError unless queries and references are images of one shape."""
  if tuple(queries) != tuple(references):
    raise ValueError(
      f"queries are images of shape {tuple(queries)} but references "
      f"{tuple(references)}, expected one shape: resize or crop one of them"
    )


def check_k(k: int, count: int) -> None:
  """ValueError unless 1 <= k <= count."""
  if not 1 <= k <= count:
    raise ValueError(
      f"k = {k} neighbours, expected 1 to {count}, the number of references: "
      "lower k or add references"
    )


def _check_positive(name: str, value: int) -> None:
  if value < 1:
    raise ValueError(f"{name} = {value}, expected at least 1")


def pad(rows: np.ndarray, count: int) -> np.ndarray:
  """Rows repeated at the end up to `count`, so that shapes compile once."""
  if len(rows) == count:
    return rows
  return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), 0)])


def _smallest(keys: Int[np.ndarray, "n j"], k: int) -> Int[np.ndarray, "n i"]:
  """The k smallest of each row, the largest of them last."""
  if keys.shape[1] > k:
    keys = np.partition(keys, k - 1, axis=1)[:, :k]
  else:
    keys = np.sort(keys, axis=1)
  return np.ascontiguousarray(keys)

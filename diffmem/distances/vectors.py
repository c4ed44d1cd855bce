# SPDX-License-Identifier: Apache-2.0
"""Nearest vectors (CLIP, SSCD, any embedding), equal to float64 brute force.

For float32 vectors x, y of d values, summed in float64 as in `metrics`,

  l2(x, y)     = |x - y|
  cosine(x, y) = 1 - <x, y> / (|x| |y|)

The search of `knn` runs on D = |x|^2 + |y|^2 - 2 <x, y> in float32, products
at precision HIGHEST; for cosine on normalized vectors, where D = 2 cosine.
D >= 0, so that its bits order as integers do. Vectors are scaled by a power
of two, so that nothing overflows. D is off by at most

  E = 2^-23 (d + 8) (|x| + max |y|)^2

for any order of summation (Higham, Accuracy and Stability of Numerical
Algorithms, 3.1, gives half of that). Of the k + margin with the least D the
k nearest are found in float64. They are right if the k-th is closer than the
last D - E: no vector that was left out can be as close. Where it is not (many
near-equal references), all with D <= k-th + E are scored instead.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from diffmem import mesh as meshes
from diffmem.arrays import Float, Int
from diffmem.distances import knn, metrics
from diffmem.distances.checks import (
  check_choice,
  check_k,
  check_same_shape,
  check_vectors,
)

MARGIN = 16
SCORED = 2**17  # values that are scored at once: they stay in the cache
HELD = 2**24  # pairs that may be kept at once


@dataclasses.dataclass(frozen=True)
class VectorNeighbours:
  """The k nearest references of n queries, nearest first, ties by id."""

  ids: Int[np.ndarray, "n k"]
  distances: Float[np.ndarray, "n k"]


@dataclasses.dataclass(frozen=True)
class VectorPairs:
  """Pairs within a threshold, by query and then by reference."""

  queries: Int[np.ndarray, " p"]
  references: Int[np.ndarray, " p"]
  distances: Float[np.ndarray, " p"]


def nearest_vectors(
  queries: Float[np.ndarray, "n d"],
  references: Float[np.ndarray, "m d"],
  k: int = 10,
  *,
  metric: str = "l2",
  margin: int = MARGIN,
  **options,
) -> VectorNeighbours:
  """The k nearest references of each query, as float64 brute force finds.

  queries, references: float32 [n d], [m d]; metric: "l2" or "cosine";
  margin: how many more than k are scored in float64; options: of `Index`.
  Raises ValueError for other dtypes and shapes, NaN and infinite values, zero
  vectors (cosine), and a k outside 1..m.
  """
  search = _Search(queries, references, metric, options)
  check_k(k, len(references))
  wide = min(k + margin, len(references))
  ids = np.empty((len(queries), k), np.int64)
  distances = np.empty((len(queries), k))
  group = search.index.group
  for start in range(0, len(queries), group):
    part = slice(start, start + group)
    rows = np.asarray(queries[part])
    found, bits = search.index.search(rows, wide)
    ids[part], distances[part] = search.best(rows, found, k)
    if wide < len(references):
      last = _from_bits(bits[:, -1]) - search.error(rows)
      unsure = np.flatnonzero(search.squared(distances[part][:, -1]) >= last)
      step = max(1, HELD // len(references))
      for first in range(0, len(unsure), step):
        row = unsure[first : first + step]
        limit = distances[start + row, -1]
        exact = _group(search.within(rows[row], limit), k, len(row))
        ids[start + row], distances[start + row] = exact
  return VectorNeighbours(ids, distances)


def vectors_within(
  queries: Float[np.ndarray, "n d"],
  references: Float[np.ndarray, "m d"],
  threshold: float,
  *,
  metric: str = "l2",
  **options,
) -> VectorPairs:
  """All pairs at a distance of at most the threshold.

  Arguments and errors: as of `nearest_vectors`. Memory grows with the pairs
  that are found.
  """
  search = _Search(queries, references, metric, options)
  if not 0 <= threshold < np.inf:
    raise ValueError(
      f"threshold = {threshold}, expected a finite distance of at least 0"
    )
  found = []
  for start in range(0, len(queries), search.index.group):
    rows = np.asarray(queries[start : start + search.index.group])
    pairs = search.within(rows, np.full(len(rows), float(threshold)))
    order = np.lexsort((pairs.references, pairs.queries))
    found.append(
      (
        pairs.queries[order] + start,
        pairs.references[order],
        pairs.distances[order],
      )
    )
  return VectorPairs(*(np.concatenate(v) for v in zip(*found, strict=True)))


class _Search:
  """What both searches share: checked input, index, scores and errors."""

  def __init__(self, queries, references, metric: str, options: dict):
    check_choice("metric", metric, METRICS)
    largest = []
    for name, values in (("queries", queries), ("references", references)):
      largest.append(check_vectors(name, values, zero=metric == "l2"))
    check_same_shape(queries.shape[1:], references.shape[1:], "vectors")
    self._references, self._metric = references, metric
    cosine = metric == "cosine"
    self._scale = 0 if cosine else -int(np.frexp(max(largest))[1])
    self._reach = 1.0 if cosine else np.ldexp(largest[1], self._scale)
    kind = functools.partial(Vectors, scale=self._scale, cosine=cosine)
    self.index = knn.Index(references, form="float32", kind=kind, **options)

  def error(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """E of each query."""
    norms = np.ones(len(rows))
    if self._metric == "l2":
      wide = np.ldexp(rows.astype(np.float64), self._scale)
      norms = np.linalg.norm(wide, axis=1)
    return 2.0**-23 * (rows.shape[1] + 8) * (norms + self._reach) ** 2

  def squared(self, distance: np.ndarray) -> np.ndarray:
    """D of a distance."""
    if self._metric == "cosine":
      return 2 * distance
    return np.ldexp(distance, self._scale) ** 2

  def best(self, rows, ids, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, distances) of the k nearest of these candidates, in float64."""
    found = np.empty((len(ids), k), np.int64)
    distances = np.empty((len(ids), k))
    step = max(1, SCORED // (ids.shape[1] * rows.shape[1]))
    for start in range(0, len(ids), step):
      part = slice(start, start + step)
      some, y = ids[part], _take(self._references, ids[part])
      scores = METRICS[self._metric](rows[part][:, None, :], y)
      order = np.lexsort((some, scores), axis=1)[:, :k]
      found[part] = np.take_along_axis(some, order, axis=1)
      distances[part] = np.take_along_axis(scores, order, axis=1)
    return found, distances

  def within(self, rows, limit: Float[np.ndarray, " n"]) -> VectorPairs:
    """Pairs at a float64 distance of at most the limit of their row."""
    below = self.squared(limit) + self.error(rows)
    # Rounded up twice: `below` is excluded.
    below = np.nextafter(below.astype(np.float32), np.float32(np.inf))
    below = below.view(np.int32).astype(np.int64) + 1
    found = []
    step = max(1, SCORED // rows.shape[1])
    for row, ids in self.index.below(rows, below):
      for start in range(0, len(row), step):
        i, j = row[start : start + step], ids[start : start + step]
        scores = METRICS[self._metric](rows[i], _take(self._references, j))
        keep = scores <= limit[i]
        found.append((i[keep], j[keep], scores[keep]))
    empty = np.empty(0, np.int64)
    found.append((empty, empty, np.empty(0)))
    return VectorPairs(*(np.concatenate(v) for v in zip(*found, strict=True)))


class Vectors:
  """Float vectors as the search of `knn` sees them; D as int32 bits."""

  dtype = np.dtype(np.float32)
  bits = 31
  on_device = True

  def __init__(
    self, d: int, mesh: Mesh, form: str, *, scale: int, cosine: bool
  ):
    self.d, self.form, self._scale, self._cosine = d, form, scale, cosine
    self._near = _sharded_near(mesh)

  def prepare(self, rows: Float[np.ndarray, "n d"], sharding):
    """(rows on the device, |x|^2 in float32)."""
    x = rows.astype(np.float64)
    if self._cosine:
      x /= metrics.norms(x)[:, None]
    x = np.ldexp(x, self._scale).astype(np.float32)
    squares = np.square(x, dtype=np.float64).sum(axis=1).astype(np.float32)
    return jax.device_put(x, sharding), (squares,)

  @staticmethod
  def values(
    a: Float[jax.Array, "n d"],
    b: Float[jax.Array, "m d"],
    a_norms: Float[jax.Array, " n"],
    b_norms: Float[jax.Array, " m"],
    *,
    form: str,
  ) -> Int[jax.Array, "n m"]:
    """The bits of D."""
    del form
    dot = jax.lax.dot_general(
      a, b, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST
    )
    d = a_norms[:, None] + b_norms[None, :] - 2 * dot
    positive = jnp.abs(jnp.maximum(d, 0))  # -0 has the bits of a negative
    return jax.lax.bitcast_convert_type(positive, jnp.int32)

  def near(self, a, b, below: Int[np.ndarray, " n"]):
    """(D, mask of those below) of a block a and a tile b."""
    below = np.minimum(below, 2**31 - 1).astype(np.int32)
    bits, mask = self._near(a.rows, b.rows, a.norms, b.norms, below)
    return (bits,), mask

  def squared(self, parts, a, b, row, column) -> Int[np.ndarray, " c"]:
    """D of some pairs."""
    return parts[0][row, column].astype(np.int64)

  def all_squared(self, parts, a, b, columns: slice) -> Int[np.ndarray, "n m"]:
    """D of all pairs with some columns."""
    return parts[0][:, columns].astype(np.int64)


@functools.lru_cache
def _sharded_near(mesh: Mesh):
  def near(a, b, a_norms, b_norms, below):
    bits = Vectors.values(a, b, a_norms, b_norms, form="float32")
    return bits, bits < below[:, None]

  whole, split, columns = P(), P(meshes.AXIS), P(None, meshes.AXIS)
  return jax.jit(
    jax.shard_map(
      near,
      mesh=mesh,
      in_specs=(whole, split, whole, split, whole),
      out_specs=(columns, columns),
    )
  )


METRICS = {"l2": metrics.l2, "cosine": metrics.cosine}


def _from_bits(bits: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
  return bits.astype(np.int32).view(np.float32).astype(np.float64)


def _take(references, ids: Int[np.ndarray, "..."]) -> np.ndarray:
  """Rows by id, each read once, in ascending order."""
  unique, place = np.unique(ids, return_inverse=True)
  return np.asarray(references[unique])[place.reshape(ids.shape)]


def _group(
  pairs: VectorPairs, k: int, n: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
  """The k nearest of each query, of which there are at least k pairs."""
  order = np.lexsort((pairs.references, pairs.distances, pairs.queries))
  first = np.searchsorted(pairs.queries[order], np.arange(n))
  chosen = order[first[:, None] + np.arange(k)]
  return pairs.references[chosen], pairs.distances[chosen]

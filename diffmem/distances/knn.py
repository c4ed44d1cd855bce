# SPDX-License-Identifier: Apache-2.0
"""Exact k nearest references of every query, without holding all pairs.

A block of queries meets one tile of references at a time, in ascending id.
Candidates are ordered by the pair (squared distance, id), packed in one int64

  key = squared << id_bits | id

so that the k smallest keys are the k nearest with ties going to the lower
id, whatever the tiling. What happens to a tile depends on SELECTION:

host    the device returns products and a mask of the pairs that can come
        below each query's running k-th; the host looks at those alone, while
        the next tile is under way. Fastest on CPU.
device  each device keeps the k nearest of its share of the references;
        they are merged at the end. Fastest on accelerators, where products
        must not cross the bus. Up to INT32_DIMS values; beyond, host.

A tile is sharded over the local devices. References that fit HOLD bytes stay
on the device; larger ones are streamed, once for each `Index.group` queries.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from diffmem import mesh as meshes
from diffmem.arrays import Float, Int
from diffmem.distances import metrics, mirrored, smallest, tiled
from diffmem.distances.checks import (
  check_choice,
  check_images,
  check_k,
  check_positive,
  check_same_shape,
)

SELECTION = {"cpu": "host", "gpu": "device", "tpu": "device"}
BLOCK = 4096  # queries that meet a tile
AHEAD = 2  # products under way while the host selects
COLUMNS = 256  # references of a tile whose distances are all formed at once
TILE = {"host": 256, "device": 16384}  # references a device
SHARED = 2048  # of several devices, at least: to start them costs as much
HOLD = 256 * 2**20  # bytes of references kept on the device
STREAM = 4  # blocks that one stream of the references serves at most
ROWS = 64 * 2**20  # bytes of a block, and of a tile


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """The k nearest references of n queries, nearest first, ties by id.

  ids: row of the reference; squared: exact integer squared distance;
  distances: root mean square difference of pixels scaled to [0, 1].
  """

  ids: Int[np.ndarray, "n k"]
  squared: Int[np.ndarray, "n k"]
  distances: Float[np.ndarray, "n k"]


@dataclasses.dataclass(frozen=True)
class Part:
  """Rows on the device: a block of queries, or a tile of references.

  start: id of the first row; count: how many rows are no padding;
  rows, squares: what the kind makes of them, |x|^2 not waited for.
  """

  start: int
  count: int
  rows: jax.Array
  squares: tuple

  @functools.cached_property
  def norms(self) -> np.ndarray:
    """|x|^2 on the host, in int64 where they are integers."""
    parts = [np.asarray(part) for part in self.squares]
    if parts[0].dtype == np.int32:
      return np.asarray(np.sum(parts, axis=0, dtype=np.int64))
    return parts[0]

  def __len__(self) -> int:
    return self.rows.shape[0]


class Index:
  """References made ready for search.

  references: anything with shape, dtype and slices of rows: an array, a
    memory map, a store.
  block: queries at a time; tile: references that meet them at once on each
    device.
  form: a key of tiled.FORMS; selection: "host" or "device"; mesh: the
    devices. By default what is fastest on this platform, on all its devices.
  hold: bytes of references that stay on the device.
  mirror: search over each reference and its mirror image (`mirrored`).
  """

  def __init__(
    self,
    references,
    *,
    block: int = BLOCK,
    tile: int | None = None,
    form: str | None = None,
    selection: str | None = None,
    mesh: Mesh | None = None,
    hold: int = HOLD,
    mirror: bool = False,
    kind: Callable = tiled.Pixels,
  ):
    self._references = references
    self._mesh = meshes.local_mesh() if mesh is None else mesh
    platform = self._mesh.devices.flat[0].platform
    self.form = tiled.fastest(platform) if form is None else form
    check_choice("form", self.form, tiled.FORMS)
    self.count, *shape = references.shape
    self.shape = tuple(shape)
    self.dims = int(np.prod(self.shape))
    self._mirror = mirror
    if mirror:
      mirrored.check(self.shape)
    self._kind = kind(self.dims, self._mesh, self.form)
    self._id_bits = max(1, (self.count - 1).bit_length())
    if self._kind.bits + self._id_bits > 63:
      raise ValueError(
        f"{self.count} references of {self.dims} values do not fit the "
        "64-bit search keys; search them in several parts"
      )
    wanted = SELECTION.get(platform, "host") if selection is None else selection
    check_choice("selection", wanted, TILE)
    self.selection = wanted if self._kind.on_device else "host"
    shared = SHARED // self._mesh.size if self._mesh.size > 1 else 1
    tile = max(TILE[self.selection], shared) if tile is None else tile
    check_positive("tile", tile)
    check_positive("block", block)
    row_bytes = self.dims * self._kind.dtype.itemsize
    self._block = max(1, min(block, ROWS // row_bytes))
    width = max(1, min(tile, ROWS // row_bytes))
    share = -(-self.count // self._mesh.size)
    self._tile = min(width, share) * self._mesh.size
    self._held = self.count * row_bytes <= hold
    # Queries of one search: one block, or as many as pay for a stream.
    self.group = self._block
    if not self._held:
      self.group *= min(STREAM, max(1, hold // (self._block * row_bytes)))
    if mirror:
      self.group = max(1, self.group // 2)
    self._parts: list[Part] = []

  def search(
    self, queries: np.ndarray, k: int
  ) -> tuple[Int[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """(ids, squared) of the k nearest of each query."""
    check_same_shape(queries.shape[1:], self.shape)
    check_k(k, self.count)
    if self._mirror:
      return mirrored.merge(*self._search(mirrored.both(queries), k))
    return self._search(queries, k)

  def _search(self, queries: np.ndarray, k: int):
    state = _Host if self.selection == "host" else _Device
    blocks = [
      state(self._kind, part, k, self._id_bits, self._mesh)
      for part in self._blocks(queries)
    ]
    waiting = collections.deque()
    for tile in self._tiles():
      for block in blocks:
        while waiting and not block.full:
          waiting.popleft()()
        waiting.append(block.meet(tile))
        if len(waiting) > AHEAD:
          waiting.popleft()()
    for finish in waiting:
      finish()
    keys = np.concatenate([block.result() for block in blocks])
    return keys & ((1 << self._id_bits) - 1), keys >> self._id_bits

  def below(
    self, queries: np.ndarray, limit: Int[np.ndarray, " n"]
  ) -> Iterator[tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]]:
    """(queries, ids) of the pairs with squared < limit [n], tile by tile."""
    check_same_shape(queries.shape[1:], self.shape)
    blocks = [
      (part, pad(limit[part.start : part.start + part.count], len(part)))
      for part in self._blocks(queries)
    ]
    waiting = collections.deque()
    for tile in self._tiles():
      for part, limits in blocks:
        waiting.append(
          (part, limits, tile, *self._kind.near(part, tile, limits))
        )
        if len(waiting) > AHEAD:
          yield self._pairs(*waiting.popleft())
    for job in waiting:
      yield self._pairs(*job)

  def _pairs(self, part: Part, limits, tile: Part, products, mask):
    products = [np.asarray(product) for product in products]
    row, column = smallest.where(np.asarray(mask))
    inside = (row < part.count) & (column < tile.count)
    row, column = row[inside], column[inside]
    found = self._kind.squared(products, part, tile, row, column)
    near = found < limits[row]
    return part.start + row[near], tile.start + column[near]

  def _blocks(self, queries: np.ndarray) -> Iterator[Part]:
    sharding = meshes.replicated(self._mesh)
    for start in range(0, len(queries), self._block):
      rows = np.asarray(queries[start : start + self._block])
      yield self._prepare(start, rows, _round_up(len(rows)), sharding)

  def _tiles(self) -> Iterator[Part]:
    """All tiles in ascending id; the first pass keeps what may be kept."""
    if len(self._parts) * self._tile >= self.count:
      yield from self._parts
      return
    self._parts.clear()
    sharding = meshes.sharded(self._mesh)
    for start in range(0, self.count, self._tile):
      rows = np.asarray(self._references[start : start + self._tile])
      part = self._prepare(start, rows, self._tile, sharding)
      if self._held:
        self._parts.append(part)
      yield part

  def _prepare(self, start: int, rows, size: int, sharding) -> Part:
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    return Part(
      start, len(rows), *self._kind.prepare(pad(flat, size), sharding)
    )


class _Host:
  """The nearest of one block of queries, selected on the host."""

  def __init__(self, kind, block: Part, k: int, id_bits: int, mesh: Mesh):
    del mesh
    self._kind, self._block, self._bits = kind, block, id_bits
    self._best = smallest.Smallest(len(block), k)

  @property
  def full(self) -> bool:
    return self._best.full

  def meet(self, tile: Part) -> Callable[[], None]:
    """Dispatches the tile; the call that is returned takes what came."""
    below = self._best.bound >> self._bits
    parts, mask = self._kind.near(self._block, tile, below)
    return functools.partial(self._take, tile, parts, mask)

  def _take(self, tile: Part, parts, mask) -> None:
    parts = [np.asarray(part) for part in parts]
    if not self.full:
      self._take_all(tile, parts)
      return
    row, column = smallest.where(np.asarray(mask))
    if len(row) > mask.size // 8:
      self._take_all(tile, parts)
      return
    if tile.count < len(tile):
      inside = column < tile.count
      row, column = row[inside], column[inside]
    values = self._kind.squared(parts, self._block, tile, row, column)
    self._best.add(row, (values << self._bits) | (tile.start + column))

  def _take_all(self, tile: Part, parts) -> None:
    """Every pair of a tile, some columns at a time."""
    width = max(COLUMNS, self._best.k)
    for first in range(0, tile.count, width):
      columns = slice(first, min(first + width, tile.count))
      keys = self._kind.all_squared(parts, self._block, tile, columns)
      keys <<= self._bits
      keys |= tile.start + np.arange(columns.start, columns.stop)
      if self.full:
        row, column = smallest.where(keys < self._best.bound[:, None])
        self._best.add(row, keys[row, column])
      else:
        self._best.add_all(keys)

  def result(self) -> Int[np.ndarray, "n k"]:
    return self._best.result()[: self._block.count]


class _Device:
  """The nearest of one block of queries, selected on the devices."""

  full = True

  def __init__(self, kind, block: Part, k: int, id_bits: int, mesh: Mesh):
    self._block, self._bits = block, id_bits
    shape = (mesh.size, len(block), k)
    none = np.iinfo(np.int32).max
    self._best = meshes.shard(
      (np.full(shape, none, np.int32), np.full(shape, none, np.int32)), mesh
    )
    self._meet = sharded_meet(mesh, kind.values, kind.form, k)

  def meet(self, tile: Part) -> Callable[[], None]:
    self._best = self._meet(
      self._block.rows,
      tile.rows,
      self._block.squares[0],
      tile.squares[0],
      np.int32(tile.start),
      np.int32(tile.count),
      *self._best,
    )
    return functools.partial(jax.block_until_ready, self._best)

  def result(self) -> Int[np.ndarray, "n k"]:
    values, ids = (np.asarray(v, np.int64) for v in self._best)
    k = values.shape[2]
    keys = np.concatenate(list((values << self._bits) | ids), axis=1)
    return np.sort(keys, axis=1)[: self._block.count, :k]


@functools.lru_cache
def sharded_meet(mesh: Mesh, values: Callable, form: str, k: int):
  """Merges a tile into the k nearest of each device's share."""

  def meet(a, b, a_norms, b_norms, start, count, best, best_ids):
    none = jnp.int32(np.iinfo(np.int32).max)
    first = jax.lax.axis_index(meshes.AXIS) * len(b)
    found, column = smallest.smallest(
      jnp.where(
        (first + jnp.arange(len(b)) < count)[None, :],
        values(a, b, a_norms, b_norms, form=form),
        none,
      ),
      min(k, len(b)),
    )
    # Both parts ascend in (value, id), earlier tiles first: ties stay right.
    merged = jnp.concatenate([best[0], found], axis=1)
    ids = jnp.concatenate([best_ids[0], start + first + column], axis=1)
    found, place = smallest.smallest(merged, k)
    return found[None], jnp.take_along_axis(ids, place, axis=1)[None]

  whole, split = P(), P(meshes.AXIS)
  return jax.jit(
    jax.shard_map(
      meet,
      mesh=mesh,
      in_specs=(whole, split, whole, split, whole, whole, split, split),
      out_specs=(split, split),
    )
  )


def nearest(
  queries: Any, references: Any, k: int = 10, **options
) -> Neighbours:
  """The k nearest references of each query, exact, ties by the lower id.

  queries [n ..], references [m ..]: uint8 images of one shape, as arrays or
  anything with shape, dtype and slices of rows (memory maps, stores, banks);
  options: of `Index`.
  The result depends on no option but mirror. Beside inputs and result, memory
  stays below 1 GiB.
  Raises ValueError for other dtypes, shapes that differ, empty or unfinished
  arrays, and a k outside 1..m.
  """
  check_images("queries", queries)
  check_images("references", references)
  check_same_shape(queries.shape[1:], references.shape[1:])
  check_k(k, references.shape[0])
  n = queries.shape[0]
  if n <= BLOCK:  # met once: memory used again is faster than fresh memory
    options.setdefault("hold", 0)
  index = Index(references, **options)
  ids, squared = np.empty((n, k), np.int64), np.empty((n, k), np.int64)
  for start in range(0, n, index.group):
    part = slice(start, start + index.group)
    ids[part], squared[part] = index.search(np.asarray(queries[part]), k)
  return Neighbours(ids, squared, metrics.rms(squared, index.dims))


def pad(rows: np.ndarray, count: int) -> np.ndarray:
  """Rows repeated at the end up to `count`, so that shapes compile once."""
  if len(rows) == count:
    return rows
  return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), 0)])


def _round_up(count: int) -> int:
  """The next power of two, so that few shapes are compiled."""
  return 1 << (count - 1).bit_length()

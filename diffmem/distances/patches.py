# SPDX-License-Identifier: Apache-2.0
"""The patch distance: how far apart two images are where they differ most.

Two images are cut into non-overlapping squares of p x p pixels, and

  patch_max(x, y) = max over positions of rms(x's patch, y's patch)

in [0, 1] (`metrics.rms`). Carlini et al., "Extracting Training Data from
Diffusion Models" (arXiv 2301.13188), compare the generations of a prompt so
(512 x 512 in patches of 128): plain distances are small between pictures
that share a flat background, whatever stands before it.

Positions are the batch of a matrix product of centred pixels, one of the exact
forms of `tiled`. A patch's squared distance is at most 255^2 d, d = p p c:

  d <= UINT32_DIMS   the sum is formed in int32, which wraps, and read as
                     uint32, where it fits: exact
  beyond             parts of at most UINT32_DIMS values are added in two
                     limbs of 16 bits, and compared limb by limb

so the maximum is taken on the device, over exact integers. A whole image is
one patch.
"""

import functools
import math
import os
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from diffmem import mesh
from diffmem.arrays import AnyArray, Float, Int, UInt8
from diffmem.distances import blocks, metrics, tiled

UINT32_DIMS = (2**32 - 1) // 255**2
BLOCK_BYTES = 3 << 27  # of images, in a block
PIECE_BYTES = 1 << 25  # of patches, and a quarter of their squared distances
THREADS = min(4, os.cpu_count() or 1)  # that lay out patches


def squared(
  a: UInt8[np.ndarray, "n h w c"], b: UInt8[np.ndarray, "m h w c"], patch: int
) -> Int[np.ndarray, "n m"]:
  """The definition: the worst patch's squared difference, of every pair."""
  worst = np.zeros((len(a), len(b)), np.int64)
  for top in range(0, a.shape[1], patch):
    for left in range(0, a.shape[2], patch):
      here = np.s_[:, top : top + patch, left : left + patch]
      worst = np.maximum(worst, metrics.squared(a[here], b[here]))
  return worst


def patch_max(
  images: UInt8[np.ndarray, "n h w c"],
  patch: int = 128,
  *,
  references: UInt8[np.ndarray, "m h w c"] | None = None,
) -> Float[np.ndarray, "n m"]:
  """The patch distance of all pairs of images, or of images x references.

  images, references: uint8. patch: its side in pixels; it divides height and
  width. Exact, symmetric and zero on the diagonal; in [0, 1]. The matrix is
  held whole: for many images take `pairs(..., patch=patch)`.
  Raises ValueError for other dtypes, shapes that differ, empty arrays, and a
  patch that does not divide.
  """
  blocks.check(images, references)
  kernel = Patches(images.shape[1:], patch)
  tiles = blocks.Tiles(images, references, kernel)
  out = np.empty(tiles.shape, np.int64)
  for start in tiles.starts:
    for column, tile in tiles.strip(start):
      rows, columns = tiles.cut(start, column)
      part = np.asarray(tile)[rows, columns]
      i = slice(start, start + part.shape[0])
      j = slice(column, column + part.shape[1])
      out[i, j] = part
      if tiles.upper:
        out[j, i] = part.T
  return metrics.rms(out, kernel.dims)


class Patches:
  """Squared distances of the worst patch: a kernel of `blocks.Tiles`.

  Patches are laid out on the host, a few positions (a piece) at a time, by
  THREADS threads and in memory that is used again and again: fresh memory
  costs more than products.
  """

  def __init__(self, shape: tuple[int, ...], patch: int | None):
    """shape: of an image, [h w c]; patch: its side, or None for whole images.

    Whole images may have any shape. ValueError where a patch does not divide.
    """
    if patch is None:
      self.grid, self.cell = (1, 1), (1, math.prod(shape))
    else:
      check_patch(shape, patch)
      self.grid = shape[0] // patch, shape[1] // patch
      self.cell = patch, patch * shape[2]
    self.dims = math.prod(self.cell)
    most = min(4 * PIECE_BYTES // self.dims, BLOCK_BYTES // math.prod(shape))
    self.most = max(blocks.GRAIN, min(2048, most))
    self._rings = [Ring(), Ring()]
    self.pool = futures.ThreadPoolExecutor(THREADS)

  def block(
    self,
    images: UInt8[np.ndarray, "n ..."],
    rows: int,
    side: int,
    on: jax.sharding.Mesh,
  ) -> "Block":
    """Up to `rows` images, for rows (side 0) or columns (1) of tiles."""
    return Block(self, images, rows, self._rings[side], on)

  def positions(self, rows: int, columns: int) -> list[slice]:
    """The pieces in which positions are taken."""
    count = math.prod(self.grid)
    size = max(rows, columns)
    piece = PIECE_BYTES // max(size * self.dims, rows * columns)
    even = math.ceil(count / math.ceil(count / max(1, piece)))
    return [slice(i, min(i + even, count)) for i in range(0, count, even)]

  def tile(self, x: "Block", y: "Block") -> AnyArray:
    """Of every pair the largest of the patches' squared distances."""
    form = tiled.fastest(x.on.devices.flat[0].platform)
    worst: Any = None
    for piece in self.positions(x.rows, y.rows):
      if x is y:  # the norms are on the product's diagonals
        rows = columns = y.piece(piece), None
      else:
        rows, columns = x.normed(piece), y.normed(piece)
      rows = _by_rows(rows, x.on)
      worst = _worst(worst, *rows, *columns, form=form)
      x.ring.used(worst[1])
      y.ring.used(worst[1])
    high, low = worst
    if high is None:
      return low
    return (np.asarray(high, np.int64) << 16) | np.asarray(low, np.int64)


class Ring:
  """Two pieces of host memory in turn, each free once its reader is done."""

  def __init__(self):
    self._slots: list[np.ndarray | None] = [None, None]
    self._readers: list[jax.Array | None] = [None, None]
    self._turn = 0

  def take(self, size: int) -> UInt8[np.ndarray, " size"]:
    """Memory on a 64-byte boundary, so that JAX takes it without a copy."""
    self._turn = 1 - self._turn
    reader, memory = self._readers[self._turn], self._slots[self._turn]
    if reader is not None:
      reader.block_until_ready()
    if memory is None or len(memory) < size + 64:
      memory = self._slots[self._turn] = np.empty(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size]

  def used(self, reader: jax.Array) -> None:
    """Says what reads the memory that was taken last."""
    self._readers[self._turn] = reader


class Block:
  """Images of one block, whose patches are made ready piece by piece."""

  def __init__(
    self,
    kernel: Patches,
    images: UInt8[np.ndarray, "n ..."],
    rows: int,
    ring: Ring,
    on: jax.sharding.Mesh,
  ):
    self.kernel, self.rows, self.ring, self.on = kernel, rows, ring, on
    self._images: Any = images
    self._kept: Any = None
    self._norms: Any = None

  def piece(self, at: slice) -> Int[jax.Array, "p rows d"]:
    """Centred patches, on every device.

    What has one position is kept, and its images let go.
    """
    if self._kept is not None:
      return self._kept
    keep = math.prod(self.kernel.grid) == 1
    laid = jax.device_put(
      self._lay(at, keep), mesh.replicated(self.on), may_alias=True
    )
    if keep:
      self._kept, self._images = laid, None
    return laid

  def normed(self, at: slice):
    """(piece [p rows d], norms of its patches' parts [s p rows])."""
    laid = self.piece(at)
    if self._kept is None:
      return laid, _norms(laid)
    if self._norms is None:
      self._norms = _norms(laid)
    return laid, self._norms

  def _lay(self, at: slice, fresh: bool) -> Int[np.ndarray, "p rows d"]:
    (down, across), (p, line) = self.kernel.grid, self.kernel.cell
    n = len(self._images)
    count = at.stop - at.start
    size = count * self.rows * p * line
    memory = (Ring() if fresh else self.ring).take(size)
    out = memory.reshape(count, self.rows, p, line)
    out[:, n:] = 0
    cut = self._images.reshape(n, down, p, across, line)

    def centre(rows: slice):
      for k in range(count):
        top, left = divmod(at.start + k, across)
        part = cut[rows, top, :, left]
        np.bitwise_xor(part, np.uint8(128), out=out[k, rows])

    share = math.ceil(n / THREADS)
    shares = (slice(i, min(i + share, n)) for i in range(0, n, share))
    list(self.kernel.pool.map(centre, shares))
    return out.reshape(count, self.rows, p * line).view(np.int8)


def check_patch(shape: tuple[int, ...], patch: int) -> None:
  """ValueError unless images [h w c] divide into patches."""
  if len(shape) != 3:
    raise ValueError(
      f"images of shape {tuple(shape)} have no patches, expected [h w c]"
    )
  height, width = shape[:2]
  if patch < 1 or height % patch or width % patch:
    common = math.gcd(height, width)
    sizes = [size for size in range(1, common + 1) if common % size == 0]
    raise ValueError(
      f"patches of {patch} x {patch} pixels do not divide images of {height} "
      f"x {width}; sizes that do: {', '.join(map(str, sizes))}"
    )


def _by_rows(piece, on: jax.sharding.Mesh):
  """A piece with its rows sharded over the devices."""
  specs = [PartitionSpec(*[None] * k, mesh.AXIS) for k in (1, 2)]
  return jax.device_put(piece, tuple(NamedSharding(on, s) for s in specs))


@functools.partial(jax.jit, static_argnames="form")
def _worst(
  worst: tuple | None,
  x: Int[jax.Array, "p n d"],
  x_norms: Int[jax.Array, "s p n"] | None,
  y: Int[jax.Array, "p m d"],
  y_norms: Int[jax.Array, "s p m"] | None,
  *,
  form: str,
):
  """(high, low) limbs of the largest squared distance of each pair so far.

  high is None where low holds all; without norms x and y are the same.
  """
  parts = []
  for i, part in enumerate(_parts(x.shape[-1])):
    product = jax.vmap(tiled.FORMS[form])(x[..., part], y[..., part])
    if x_norms is None or y_norms is None:
      a = b = jnp.diagonal(product, axis1=1, axis2=2)
    else:
      a, b = x_norms[i], y_norms[i]
    squared = a[:, :, None] + b[:, None, :] - 2 * product
    parts.append(jax.lax.bitcast_convert_type(squared, jnp.uint32))
  if len(parts) == 1:
    low = jnp.max(parts[0], axis=0)
    return None, low if worst is None else jnp.maximum(low, worst[1])
  high = sum(part >> 16 for part in parts)
  low = sum(part & 0xFFFF for part in parts)
  high, low = high + (low >> 16), low & 0xFFFF
  if worst is not None:
    high = jnp.concatenate([worst[0][None], high])
    low = jnp.concatenate([worst[1][None], low])
  top = jnp.max(high, axis=0)
  return top, jnp.max(jnp.where(high == top[None], low, 0), axis=0)


@jax.jit
def _norms(x: Int[jax.Array, "p n d"]) -> Int[jax.Array, "s p n"]:
  """|part|^2, as diagonals of small products: n a multiple of blocks.GRAIN.

  On CPU that takes a tenth of the time of squaring and adding.
  """
  p, n, d = x.shape
  groups = x.reshape(p * n // blocks.GRAIN, blocks.GRAIN, d)
  product = jax.vmap(tiled.FORMS["int8"])
  norms = [
    jnp.diagonal(product(part, part), axis1=1, axis2=2).reshape(p, n)
    for part in (groups[..., part] for part in _parts(d))
  ]
  return jnp.stack(norms)


def _parts(d: int) -> list[slice]:
  """Values in parts whose squared distances fit 32 bits."""
  return [slice(i, i + UINT32_DIMS) for i in range(0, d, UINT32_DIMS)]

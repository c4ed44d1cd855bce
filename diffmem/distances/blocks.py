# SPDX-License-Identifier: Apache-2.0
"""Which blocks of images meet which, so that every pair is seen once.

Two sets of n and m images (or one with itself) meet in tiles of at most
`rows` x `columns` pairs. Tiles come strip by strip, a strip being `rows`
images against all columns; of a set with itself only the upper triangle of
tiles is made. What a tile holds is the kernel's (`patches.Patches`).

Sizes depend on the sets alone, never on the devices: rows of a strip are
sharded over those that divide them.
"""

import functools
import math
from collections.abc import Iterator

import jax
import numpy as np

from diffmem import mesh
from diffmem.arrays import AnyArray
from diffmem.distances import checks

GRAIN = 16  # rows and columns are multiples of it
KEPT_BYTES = 1 << 28  # of blocks that are kept for the next strip


class Tiles:
  """The tiles of two sets, or of one with itself (b None).

  a, b: uint8 images [n ...], arrays or stores; blocks of them are read when
  they are needed, and small ones are kept, KEPT_BYTES in all.
  kernel: `block` takes the images of one, `tile` is the squared distances of
  two blocks, an array of integers on the device (not waited for) or on the
  host; at most `most` images a block.
  """

  def __init__(self, a, b, kernel):
    self._sets = (a, a if b is None else b)
    self._kernel = kernel
    self.upper = b is None
    self.shape = tuple(len(images) for images in self._sets)
    self.rows, self.columns = (_size(n, kernel.most) for n in self.shape)
    self._mesh = mesh.local_mesh(math.gcd(self.rows, jax.local_device_count()))
    one = math.prod(a.shape[1:]) * max(self.rows, self.columns)
    self._load = self._block
    if one <= KEPT_BYTES // 2:
      self._load = functools.lru_cache(maxsize=KEPT_BYTES // one)(self._block)

  @property
  def starts(self) -> range:
    """The first row of each strip."""
    return range(0, self.shape[0], self.rows)

  def pairs(self, start: int) -> int:
    """How many pairs the strip at this row holds, each counted once."""
    n, m = self.shape
    count = min(self.rows, n - start)
    if not self.upper:
      return count * m
    return sum(m - 1 - row for row in range(start, start + count))

  def strip(self, start: int) -> Iterator[tuple[int, AnyArray]]:
    """(first column, squared distances) of each tile, the next under way.

    Rows and columns past the end of a set are not cut off; of a set with
    itself the first tile holds both i, j and j, i.
    """
    strip = self._load(0, start)
    waiting = []
    first = start if self.upper else 0
    for column in range(first, self.shape[1], self.columns):
      block = None  # the last one goes before the next is read
      same = self.upper and column == start
      block = strip if same else self._load(1, column)
      waiting.append((column, self._kernel.tile(strip, block)))
      if len(waiting) == 2:
        yield waiting.pop(0)
    yield from waiting

  def cut(self, start: int, column: int) -> tuple[slice, slice]:
    """The part of a tile that holds pairs."""
    n, m = self.shape
    return (
      slice(min(self.rows, n - start)),
      slice(min(self.columns, m - column)),
    )

  def _block(self, side: int, start: int):
    size = (self.rows, self.columns)[side]
    images = np.asarray(self._sets[side][start : start + size])
    return self._kernel.block(images, size, side, self._mesh)


def check(a, b) -> None:
  """ValueError unless a, and b if given, are whole sets of like images."""
  for name, images in (("a", a), ("b", b)):
    if images is None and name == "b":
      continue
    checks.check_images(name, images)
  if b is not None and tuple(a.shape[1:]) != tuple(b.shape[1:]):
    raise ValueError(
      f"a holds images of shape {tuple(a.shape[1:])} but b of "
      f"{tuple(b.shape[1:])}, expected one shape: resize or crop one of them"
    )


def _size(count: int, most: int) -> int:
  """Blocks of one size, as few and as even as `most` allows."""
  even = math.ceil(count / math.ceil(count / most))
  return math.ceil(even / GRAIN) * GRAIN

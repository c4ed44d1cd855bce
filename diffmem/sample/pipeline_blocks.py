# SPDX-License-Identifier: Apache-2.0
"""Blocks of images from outside, into a store, with what was flagged.

A block is `batch` ids of fixed boundaries and one chunk of the store, so that
a bank that was stopped is completed by the blocks that a calm run makes.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from diffmem import processes, store, workdir
from diffmem.arrays import Bool, UInt8
from diffmem.progress import Progress

# ids [b] -> (uint8 images [b h w c], flagged [b], or None without a checker)
Make = Callable[
  [np.ndarray], tuple[UInt8[np.ndarray, "b h w c"], np.ndarray | None]
]


def fill(
  folder: os.PathLike, make: Make, *, n: int, batch: int, progress: bool
) -> Bool[np.ndarray, " n"] | None:
  """Makes every block that <folder>/images lacks; which images were flagged.

  Of several processes each makes its part of the blocks.
  The images' shape is that of the first block made. Flags are kept beside the
  images (`flagged`, written first), so that none is lost in a stop.
  """
  folder = workdir.path(folder)
  batch = min(batch, n)
  images = _open(folder, n, batch)
  if images is not None:
    damaged = images.damaged(processes.share(images.written()))
    if damaged:
      raise ValueError(damaged)

  def written() -> list[int]:
    opened = _open(folder, n, batch)
    return [] if opened is None else opened.written()

  def there() -> int:
    return sum(min(batch, n - number * batch) for number in written())

  with Progress(
    n, what="sample", unit="images", done=there(), enabled=progress
  ) as bar:
    for numbers in processes.parts(
      written,
      -(-n // batch),
      what="the bank",
      meanwhile=lambda: bar.reach(there()),
    ):
      for number in numbers:
        ids = np.arange(number * batch, min((number + 1) * batch, n))
        block, flags = make(ids)
        if flags is not None:
          _flags(folder, n, batch).write(number, flags.astype(np.uint8))
        if images is None:
          images = store.create(
            folder / "images",
            shape=(n, *block.shape[1:]),
            dtype=np.uint8,
            chunk=batch,
          )
        images.write(number, block)
        bar.update(len(ids))
  if not (folder / "flagged" / "zarr.json").exists():
    return None
  return store.open(folder / "flagged")[:].astype(bool)


def complete(folder: os.PathLike) -> bool:
  """Whether every image of a bank is there."""
  images = workdir.path(folder) / "images"
  return (images / "zarr.json").exists() and store.open(images).complete()


def _open(folder: Any, n: int, batch: int) -> store.Store | None:
  if not (folder / "images" / "zarr.json").exists():
    return None
  shape = store.open(folder / "images").shape
  return store.create(
    folder / "images",
    shape=(n, *shape[1:]),
    dtype=np.uint8,
    chunk=min(batch, n),
  )


def _flags(folder: Any, n: int, batch: int) -> store.Store:
  return store.create(
    folder / "flagged", shape=(n,), dtype=np.uint8, chunk=min(batch, n)
  )

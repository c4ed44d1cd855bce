# SPDX-License-Identifier: Apache-2.0
"""Search over images and their mirror images, left and right swapped.

With m(x) the mirror image of x,

  squared(x, {y, m(y)}) = min(squared(x, y), squared(m(x), y)),

so that the queries are searched as they are and mirrored, and the references
once. If an id is among the k nearest by the pair (minimum, id), fewer than k
ids come before it in the search that holds its minimum: the k nearest of
both together hold the k nearest by the minimum.
"""

import numpy as np

from diffmem.arrays import Int, UInt8


def check(shape: tuple[int, ...]) -> None:
  """ValueError unless images of this shape have a left and a right."""
  if len(shape) != 3:
    raise ValueError(
      f"images of shape {tuple(shape)} cannot be mirrored, expected [h w c]: "
      "set mirror=False or reshape them"
    )


def both(
  images: UInt8[np.ndarray, "n h w c"],
) -> UInt8[np.ndarray, "two_n h w c"]:
  """The images, then their mirror images."""
  return np.concatenate([images, images[:, :, ::-1]])


def merge(
  ids: Int[np.ndarray, "two_n k"], squared: Int[np.ndarray, "two_n k"]
) -> tuple[Int[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
  """The k nearest of `both`'s halves: distinct ids by (squared, id)."""
  n, k = len(ids) // 2, ids.shape[1]
  ids = np.concatenate([ids[:n], ids[n:]], axis=1)
  squared = np.concatenate([squared[:n], squared[n:]], axis=1)
  by_id = np.lexsort((squared, ids), axis=1)
  ids = np.take_along_axis(ids, by_id, axis=1)
  squared = np.take_along_axis(squared, by_id, axis=1)
  again = ids[:, 1:] == ids[:, :-1]
  squared[:, 1:][again] = np.iinfo(np.int64).max
  best = np.argsort(squared, axis=1, kind="stable")[:, :k]
  return (
    np.take_along_axis(ids, best, axis=1),
    np.take_along_axis(squared, best, axis=1),
  )

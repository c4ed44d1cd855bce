# SPDX-License-Identifier: Apache-2.0
"""What training does to an image each time that it sees it.

  flip    mirrored left to right, with probability 1/2
  shift   moved by (dy, dx), each uniform on -shift .. shift; what comes in
          from outside repeats the edge

Both are functions of (seed, step, slot), the slot being the place of an
image in its step: of a batch of fixed size its position there, of a Poisson
batch its training row.
"""

import numpy as np
from jaxtyping import Int, UInt8

from diffmem.data.streams import coins, words


def check(shape: tuple[int, ...], shift: int) -> None:
  """ValueError unless images of shape (h, w, c) can be moved so far."""
  if not 0 <= shift < min(shape[:2]):
    raise ValueError(
      f"train.shift={shift}: expected 0 (no moves) to {min(shape[:2]) - 1} "
      f"pixels for images of {shape[0]}x{shape[1]}"
    )


def augment(
  images: UInt8[np.ndarray, "b h w c"],
  *,
  flip: bool,
  shift: int,
  seed: int,
  step: int,
  slots: Int[np.ndarray, " b"],
  count: int,
) -> UInt8[np.ndarray, "b h w c"]:
  """Images as training sees them in this step; may change the argument.

  slots: of each image, below count.
  """
  if flip:
    flipped = coins(count, seed, "flip", step).astype(bool)[slots]
    images[flipped] = images[flipped, :, ::-1]
  if shift:
    drawn = words(2 * count, seed, "shift", step) % np.uint64(2 * shift + 1)
    start = drawn.astype(np.int64).reshape(count, 2)[slots]
    images = moved(images, start - shift)
  return images


def moved(
  images: UInt8[np.ndarray, "b h w c"], by: Int[np.ndarray, "b 2"]
) -> UInt8[np.ndarray, "b h w c"]:
  """Each image moved down and to the right by its (dy, dx)."""
  _, h, w, _ = images.shape
  y = np.clip(np.arange(h) - by[:, :1], 0, h - 1)
  x = np.clip(np.arange(w) - by[:, 1:], 0, w - 1)
  return images[
    np.arange(len(images))[:, None, None], y[:, :, None], x[:, None]
  ]

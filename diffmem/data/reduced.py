# SPDX-License-Identifier: Apache-2.0
"""Images at a smaller size, for the base of a cascade and what attacks it.

Each block of f x f pixels becomes its mean, rounded to the nearest grey level
(halves up). Ids, labels, captions and the record of the source stay.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from diffmem.data.dataset import Dataset

BLOCK = 4096  # images at a time: their sums are four times as large


def to_height(
  images: UInt8[np.ndarray, "n h w c"], height: int
) -> UInt8[np.ndarray, "n y x c"]:
  """Area down-sampling; the images themselves where they are that high.

  Raises ValueError unless blocks are whole.
  """
  n, h, w, c = images.shape
  if height == h:
    return images
  if height < 1 or h % height or w % (h // height):
    raise ValueError(
      f"images of {h}x{w} cannot be averaged down to height {height}: choose "
      "a divisor of both sides, or crop or resize them (data.crop, data.resize)"
    )
  f = h // height
  made = np.empty((n, height, w // f, c), np.uint8)
  for start in range(0, n, BLOCK):
    block = images[start : start + BLOCK]
    sums = block.reshape(len(block), height, f, w // f, f, c)
    sums = sums.sum(axis=(2, 4), dtype=np.uint32)
    made[start : start + BLOCK] = (2 * sums + f * f) // (2 * f * f)
  return made


def fitted(
  images: UInt8[np.ndarray, "n h w c"], height: int
) -> UInt8[np.ndarray, "n y x c"]:
  """The images at a model's height, where theirs is a whole multiple of it."""
  h, w = images.shape[1:3]
  whole = h % height == 0 and w % (h // height) == 0
  return to_height(images, height) if whole else images


def fitted_dataset(dataset: Dataset, height: int) -> Dataset:
  """The same for a dataset; itself where nothing changes."""
  images = fitted(dataset.images, height)
  if images is dataset.images:
    return dataset
  return dataclasses.replace(dataset, images=images)

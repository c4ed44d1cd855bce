# SPDX-License-Identifier: Apache-2.0
"""A dataset's images as a model was trained on them: their size, conditions."""

import os
from typing import Any

import numpy as np

from diffmem import arrays, workdir
from diffmem.arrays import Int
from diffmem.data import Dataset, captions
from diffmem.denoiser.protocol import Denoiser
from diffmem.diffusion import augmentation


def takes_captions(denoiser: Denoiser) -> bool:
  """Whether conditions are texts: trees of tokens and a mask."""
  null = denoiser.null_cond
  return isinstance(null, dict) and {"tokens", "mask"} <= set(null)


def sized(images: Any, denoiser: Denoiser) -> Any:
  """Images averaged down to those of the base of a cascade, if it is one."""
  h, w = images.shape[1:3]
  if denoiser.encode is not None or (h, w) == tuple(denoiser.shape[:2]):
    return images
  if h % denoiser.shape[0] or h // denoiser.shape[0] * denoiser.shape[1] != w:
    return images  # of another model: refused where they are read
  whole = arrays.from_uint8(np.asarray(images))
  return np.asarray(augmentation.smaller(whole, denoiser.shape[0]))


def of_images(
  root: str | os.PathLike,
  dataset: Dataset,
  denoiser: Denoiser,
  ids: Int[np.ndarray, " n"],
) -> Any:
  """Labels [n], or captions' trees [n ...], of images; None without either.

  A stage of a cascade that enlarges images is given these, averaged down and
  without noise, as "low" and "level" of the tree.

  Args:
    root: the workdir of the model; `captions` lie in that of its whole run.
    dataset: of the images.
    denoiser: whose conditions.
    ids: of the images.
  """
  rows = dataset.rows(ids)
  found: dict[str, Any] = {}
  if takes_captions(denoiser):
    known = captions.read(workdir.whole(root), dataset)
    found |= known.cond(known.ids[rows])
  if denoiser.low is not None:
    x = arrays.from_uint8(dataset.images[rows])
    found["low"] = np.asarray(augmentation.smaller(x, denoiser.low[0]))
    found["level"] = np.zeros(len(rows), np.int32)
  if found:
    return found
  if denoiser.num_classes is None or dataset.labels is None:
    return None
  return dataset.labels[rows]

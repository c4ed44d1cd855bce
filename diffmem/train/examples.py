# SPDX-License-Identifier: Apache-2.0
"""What a network trains on: images at its size, and the captions of each."""

import dataclasses
import os
from typing import Any

import numpy as np

import diffmem.models
from diffmem import arrays, workdir
from diffmem.data import Dataset, Split, canaries, captions, reduced
from diffmem.denoiser import gans
from diffmem.diffusion import augmentation


def embedded(
  folder: os.PathLike,
  model: diffmem.models.Model | gans.Network,
  dataset: Dataset,
  split: Split,
  data: dict,
  progress: bool,
) -> captions.Captions | None:
  """The captions of the data where the network takes some, else None.

  They lie in the folder of the whole run, for all its models.

  Raises:
    ValueError: there are none, or the network takes others.
  """
  settings = data.get("captions")
  if settings is None:
    if model.text is not None:
      raise ValueError(
        f"models.text={model.text}, but data.captions=None: say how captions "
        "are embedded, or set models.text=None"
      )
    return None
  if split.info.get("canaries"):
    raise ValueError("data.canaries have no captions: leave one of both out")
  texts = captions.prepare(
    workdir.whole(folder), dataset, progress=progress, **settings
  )
  size = (texts.info["length"], texts.info["features"])
  if model.text is not None and model.text != size:
    raise ValueError(
      f"models.text={model.text}, but the captions are embedded as {size} "
      "(tokens, numbers of a token): set it to that"
    )
  return texts if model.text is not None else None


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """What a model trains on: images with canaries, and the row of each copy."""

  dataset: Dataset
  rows: np.ndarray
  texts: captions.Captions | None

  def beside(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Tokens and mask of the captions of these rows, where there are some."""
    if self.texts is None:
      return {}
    return self.texts.cond(self.texts.ids[rows])


def of(
  dataset: Dataset,
  split: Split,
  height: int | None,
  texts: captions.Captions | None,
) -> Examples:
  """The training images, averaged down to `height` where it is given."""
  dataset, rows = canaries.training(dataset, split)
  if height is not None:
    images = reduced.to_height(dataset.images, height)
    dataset = dataclasses.replace(dataset, images=images)
  return Examples(dataset, rows, texts)


def pictured(
  model: diffmem.models.Model | gans.Network, examples: Examples, train: dict
) -> dict[str, Any]:
  """The conditions of previews, where the model has any but classes."""
  rows = np.unique(examples.rows)[: train["preview"]]
  if not len(rows) or (model.text is None and model.low is None):
    return {}
  found: dict[str, Any] = examples.beside(rows)
  if model.low is not None:
    x = arrays.from_uint8(examples.dataset.images[rows])
    found["low"] = augmentation.smaller(x, model.low[0])
    found["level"] = np.zeros(len(rows), np.int32)
  return {"conditions": found}

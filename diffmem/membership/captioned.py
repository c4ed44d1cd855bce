# SPDX-License-Identifier: Apache-2.0
"""The conditions that a dataset's images were trained with."""

import os
from typing import Any

import numpy as np

from diffmem import workdir
from diffmem.arrays import Int
from diffmem.data import Dataset, captions
from diffmem.denoiser import Denoiser
from diffmem.sample.bank import Bank


def takes_captions(denoiser: Denoiser) -> bool:
  """Whether conditions are texts: trees of tokens and a mask."""
  null = denoiser.null_cond
  return isinstance(null, dict) and {"tokens", "mask"} <= set(null)


def of_images(
  root: str | os.PathLike,
  dataset: Dataset,
  denoiser: Denoiser,
  ids: Int[np.ndarray, " n"],
) -> Any:
  """Labels [n], or captions' trees [n ...], of images; None without either.

  Args:
    root: the workdir that holds `captions`.
    dataset: of the images.
    denoiser: whose conditions.
    ids: of the images.
  """
  if takes_captions(denoiser):
    known = captions.read(workdir.whole(root), dataset)
    return known.cond(known.ids[dataset.rows(ids)])
  if denoiser.num_classes is None or dataset.labels is None:
    return None
  return dataset.labels[dataset.rows(ids)]


def of_bank(
  root: str | os.PathLike,
  dataset: Dataset,
  denoiser: Denoiser,
  bank: Bank,
  count: int,
) -> Any:
  """The same of the first images of a bank, by class or by prompt.

  None where the model takes neither, or a prompt is no caption of the data.
  """
  if takes_captions(denoiser):
    known = captions.read(workdir.whole(root), dataset)
    prompts, ids = bank.prompts, bank.prompt_ids
    if prompts is None or ids is None or not set(prompts) <= set(known.texts):
      return None
    ids = ids[:count]
    return known.cond(known.find(prompts)[ids]) if ids.min() >= 0 else None
  if denoiser.num_classes is None:
    return None
  return np.arange(count, dtype=np.int64) % denoiser.num_classes  # by id

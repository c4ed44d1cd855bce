# SPDX-License-Identifier: Apache-2.0
"""The conditions of images: those of a dataset, and those of a bank."""

import os
from typing import Any

import numpy as np

from diffmem import workdir
from diffmem.data import Dataset, captions
from diffmem.denoiser import Denoiser
from diffmem.denoiser.annotated import of_images, sized, takes_captions
from diffmem.sample.bank import Bank

__all__ = ["of_bank", "of_images", "sized", "takes_captions"]


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

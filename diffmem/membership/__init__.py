# SPDX-License-Identifier: Apache-2.0
"""Which images a model was trained on, told from how it treats them.

An attack gives each image a score; higher means member, everywhere.
"""

from typing import Any

import numpy as np

from diffmem.arrays import AnyArray, Float
from diffmem.denoiser import Denoiser
from diffmem.membership import loss

ATTACKS = {"loss": loss.score}

__all__ = ["ATTACKS", "score"]


def score(
  attack: str, denoiser: Denoiser, images: AnyArray, **options: Any
) -> Float[np.ndarray, " n"]:
  """Scores of images by an attack of that name; higher means member.

  Args:
    attack: one of ATTACKS.
    denoiser: the model under attack.
    images: [n h w c], uint8, or floats in [-1, 1].
    **options: those of the attack, such as t=100, draws=16, seed=0.

  Raises:
    ValueError: an unknown attack, or images that the model cannot take.
    FloatingPointError: a score is not finite; names the images.
  """
  return ATTACKS[check_attack(attack)](denoiser, images, **options)


def check_attack(name: str) -> str:
  """The name; ValueError with the choices if there is no such attack."""
  if name not in ATTACKS:
    raise ValueError(
      f"unknown attack {name!r}: choose one of {', '.join(ATTACKS)}"
    )
  return name

# SPDX-License-Identifier: Apache-2.0
"""Which images a model was trained on, told from how it treats them.

An attack gives each image a score; higher means member, everywhere. Those of
ATTACKS need one model alone.
"""

from typing import Any

import numpy as np

from diffmem.arrays import Float
from diffmem.denoiser import Denoiser
from diffmem.membership import (
  loss,
  pfami,
  pia,
  protocol,
  rediffuse,
  secmi,
  secmi_nn,
  sima,
)
from diffmem.membership.protocol import Attack

ATTACKS: dict[str, Attack] = {
  attack.name: attack
  for attack in (
    loss.ATTACK,
    secmi.ATTACK,
    secmi_nn.ATTACK,
    pia.ATTACK,
    pia.NORMALISED,
    sima.ATTACK,
    pfami.ATTACK,
    rediffuse.ATTACK,
  )
}

__all__ = ["ATTACKS", "Attack", "check_attack", "score"]


def score(
  attack: str, denoiser: Denoiser, images: Any, **options: Any
) -> Float[np.ndarray, " n"] | Float[np.ndarray, "n t"]:
  """Scores of images by an attack of that name; higher means member.

  Args:
    attack: one of ATTACKS.
    denoiser: the model under attack.
    images: [n h w c], uint8, or floats in [-1, 1].
    **options: t=100 (several give [n t]), seed=0, batch=512, cond=None, and
      those of the attack: `ATTACKS[attack].defaults`.

  Raises:
    ValueError: an unknown attack or option, or images that the model cannot
      take.
    FloatingPointError: a value is not finite; names the images.
  """
  check_attack(attack)
  return protocol.score(ATTACKS[attack], denoiser, images, **options)


def check_attack(name: str) -> str:
  """The name; ValueError with the choices if there is no such attack."""
  if name not in ATTACKS:
    raise ValueError(
      f"unknown attack {name!r}: choose one of {', '.join(ATTACKS)}"
    )
  return name

# SPDX-License-Identifier: Apache-2.0
"""Which images a model was trained on, told from how it treats them.

An attack gives each image a score; higher means member, everywhere. Those of
ATTACKS need one model alone. A detector gives each prompt a score; higher
means that what it draws was memorized.
"""

from typing import Any

import numpy as np

from diffmem.arrays import Float
from diffmem.denoiser import Denoiser
from diffmem.membership import (
  clid,
  discriminator,
  loss,
  magnitude,
  one_step,
  pfami,
  pia,
  prompt_scores,
  protocol,
  rediffuse,
  secmi,
  secmi_nn,
  sima,
)
from diffmem.membership.prompt_scores import Detector
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
    clid.ATTACK,
  )
}

# Aimed at the discriminator of a GAN.
GAN_ATTACKS: dict[str, Attack] = {
  discriminator.ATTACK.name: discriminator.ATTACK
}

DETECTORS: dict[str, Detector] = {
  detector.name: detector
  for detector in (magnitude.DETECTOR, one_step.CONFIDENCE, one_step.EDGES)
}

__all__ = [
  "ATTACKS",
  "DETECTORS",
  "GAN_ATTACKS",
  "Attack",
  "Detector",
  "check_attack",
  "check_detector",
  "prompt_score",
  "score",
]


def score(
  attack: str, denoiser: Denoiser, images: Any, **options: Any
) -> Float[np.ndarray, " n"] | Float[np.ndarray, "n t"]:
  """Scores of images by an attack of that name; higher means member.

  Args:
    attack: one of ATTACKS, or of GAN_ATTACKS with t=0.
    denoiser: the model under attack; for a GAN `targets.critic` of it.
    images: [n h w c], uint8, or floats in [-1, 1].
    **options: t=100 (several give [n t]), seed=0, batch=512, cond=None, and
      those of the attack: `ATTACKS[attack].defaults`.

  Raises:
    ValueError: an unknown attack or option, or images that the model cannot
      take.
    FloatingPointError: a value is not finite; names the images.
  """
  check_attack(attack)
  every = {**ATTACKS, **GAN_ATTACKS}
  return protocol.score(every[attack], denoiser, images, **options)


def check_attack(name: str) -> str:
  """The name; ValueError with the choices if there is no such attack."""
  if name not in ATTACKS and name not in GAN_ATTACKS:
    raise ValueError(
      f"unknown attack {name!r}: choose one of {', '.join(ATTACKS)}, or for a "
      f"GAN {', '.join(GAN_ATTACKS)}"
    )
  return name


def prompt_score(
  detector: str, denoiser: Denoiser, cond: Any, **options: Any
) -> Float[np.ndarray, " p"]:
  """Scores of prompts by a detector of that name; higher means memorized.

  Args:
    detector: one of DETECTORS.
    denoiser: a conditional model with a null condition.
    cond: a condition for each prompt: class labels, embeddings, or a tree of
      arrays, the prompt first.
    **options: seed=0, batch=512, and those of the detector:
      `DETECTORS[detector].defaults`.

  Raises:
    ValueError: an unknown detector or option, or conditions that the model
      cannot take.
    FloatingPointError: a value is not finite; names the prompts.
  """
  check_detector(detector)
  return prompt_scores.score(DETECTORS[detector], denoiser, cond, **options)


def check_detector(name: str) -> str:
  """The name; ValueError with the choices if there is no such detector."""
  if name not in DETECTORS:
    raise ValueError(
      f"unknown detector {name!r}: choose one of {', '.join(DETECTORS)}"
    )
  return name

# SPDX-License-Identifier: Apache-2.0
"""The nearest generation: members lie closer to what a model makes.

  score[i] = -mean over the k nearest generations g of |x_i - g|,

the root mean square distance of pixels; higher means member. It needs a bank
and nothing else: any generator, ours or from outside, can be attacked so.

(Chen et al. 2020, GAN-Leaks, the black-box attack; Hilprecht et al. 2019.)
"""

import os
from typing import Any

import numpy as np

from diffmem import distances, workdir
from diffmem.data import reduced
from diffmem.membership import evaluate
from diffmem.membership.scene import Scene
from diffmem.membership.single import Result
from diffmem.sample import bank as banks

KEYS = {"k"}


def score(images: Any, generations: Any, *, k: int = 1) -> np.ndarray:
  """Scores [n] of images by a bank; higher means member.

  Args:
    images, generations: uint8 [n h w c], arrays or anything alike.
    k: how many of the nearest generations count.

  Raises:
    ValueError: other shapes or dtypes, or fewer than k generations.
  """
  return -distances.nearest(images, generations, k).distances.mean(axis=1)


def check(root: str | os.PathLike, scene: Scene, section: dict | None) -> None:
  """Refuses, before anything is computed, what cannot be."""
  if section is None:
    return
  if scene.main is None:
    raise ValueError(
      "membership.nearest needs generations of a model of the workdir's own, "
      "there are only shadows: raise data.split.members, or set "
      "membership.nearest=None"
    )
  workdir.require(root, "sample")
  generations = banks.open_bank(root)
  if not 1 <= section["k"] <= len(generations):
    raise ValueError(
      f"membership.nearest.k = {section['k']}: expected 1 to "
      f"{len(generations)}, the generations there are"
    )
  made, shape = generations.shape[1:], scene.dataset.images.shape[1:]
  if made != shape and made[0] <= shape[0]:
    raise ValueError(f"generations are {made}, the scored images {shape}")


def run(
  root: str | os.PathLike,
  scene: Scene,
  section: dict,
  *,
  criterion: str,
  bootstrap: int,
  seed: int,
) -> Result:
  """Scores and numbers of the attack on the workdir's bank."""
  generations: Any = banks.open_bank(root)
  images = scene.dataset.take(scene.ids)
  if generations.shape[1:] != images.shape[1:]:  # of a cascade's last stage
    generations = reduced.fitted(generations[:], images.shape[1])
  found = score(images, generations, k=section["k"])
  by_time = found[None, :, None]
  calibration = scene.parts.calibration
  numbers, _ = evaluate.attack(
    by_time,
    ("all",),
    scene.design,
    calibration=by_time[:, calibration] if calibration.any() else None,
    headline_t=None,
    criterion=criterion,
    bootstrap=bootstrap,
    seed=seed,
  )
  numbers |= {
    "kind": "model",
    "models": 1,
    "source": "Chen et al. 2020",
    "queries": len(generations),  # made once, for all images
    "options": {**section, "generations": len(generations)},
    "by_copies": evaluate.by_copies(
      found, scene.parts, bootstrap=bootstrap, seed=seed
    ),
  }
  return Result("nearest", numbers, found[None], scene.design, by_time, 0)

# SPDX-License-Identifier: Apache-2.0
"""The loss attack: a member is denoised better than an image never seen.

  score_i = -mean over draws j of loss[i, t, j],   higher means member

(Yeom et al. 2018; for diffusion models Matsumoto et al. 2023 and Carlini et
al. 2023, section 5.2.) t is chosen in advance, never on the reported images.
"""

import numpy as np

from diffmem.arrays import AnyArray, Float
from diffmem.denoiser import Denoiser
from diffmem.membership import signals


def from_losses(
  losses: Float[np.ndarray, "n draws"],
) -> Float[np.ndarray, " n"]:
  """Scores from the losses at one t; higher means member."""
  return -losses.mean(axis=1, dtype=np.float64)


def score(
  denoiser: Denoiser,
  images: AnyArray,
  *,
  t: int = 100,
  draws: int = 16,
  seed: int = 0,
  batch: int = 512,
  cond: signals.Cond = None,
  progress: bool = False,
) -> Float[np.ndarray, " n"]:
  """Scores of images [n h w c], uint8 or floats in [-1, 1].

  Args and errors: those of `signals.losses`, at one t.
  """
  found = signals.losses(
    denoiser,
    images,
    t=(t,),
    draws=draws,
    seed=seed,
    batch=batch,
    cond=cond,
    progress=progress,
  )
  return from_losses(found[:, 0])

# SPDX-License-Identifier: Apache-2.0
"""The loss attack: a member is denoised better than an image never seen.

  loss[i, t, j, a] = mean over pixels of (eps_hat(x_t, t) - eps_tj)^2,
  x_t = sqrt(ab_t) a(x_i) + sqrt(1 - ab_t) eps_tj
  score[i, t] = -mean over draws j and augmentations a,  higher means member

eps_tj is draw j at time t, a function of (seed, t, j) alone: the same for
every image, augmentation and model, so that in a comparison of any of them
the noise of the noise cancels. It is the loss that training uses.

(Yeom et al. 2018; for diffusion models Matsumoto et al. 2023 and Carlini et
al. 2023, section 5.2.) t is chosen in advance, never on the reported images.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float
from diffmem.diffusion.losses import denoising_loss
from diffmem.membership import signals
from diffmem.membership.protocol import Attack


@jax.jit
def _flip(images: AnyArray) -> Float[jax.Array, "b h w c"]:
  return jnp.flip(images, 2)


AUGMENTATIONS = {"identity": lambda images: images, "flip": _flip}
OVER = {"mean": np.mean, "min": np.min}


def denoising(denoiser, params, x0, t, eps, cond):
  """The loss [b] of x0 [b h w c] under one draw of noise [h w c]."""
  return denoising_loss(
    lambda x_t, times, c: denoiser.predict(params, x_t, times, c)[0],
    x0,
    jnp.full(len(x0), t, jnp.int32),
    jnp.broadcast_to(eps[None], x0.shape),
    cond,
    schedule=denoiser.schedule,
  )


def _block(queries, images, cond, *, t, draws, seed, augment):
  views = [queries.encode(AUGMENTATIONS[a](images)) for a in augment]
  return [
    queries.call(
      denoising, x0, queries.number(s), queries.noise(seed, s, j), cond
    )
    for s in t
    for j in range(draws)
    for x0 in views
  ]


def _shape(denoiser, *, t, draws, seed, augment):
  signals.at_least_one(draws=draws)
  check_augment(augment)
  return (len(t), draws, len(augment))


def check_augment(augment) -> None:
  """ValueError unless these are names of AUGMENTATIONS."""
  if isinstance(augment, str) or not len(augment):
    raise ValueError(
      f"augment = {augment!r}: give a list of {', '.join(AUGMENTATIONS)}"
    )
  for name in augment:
    if name not in AUGMENTATIONS:
      raise ValueError(
        f"unknown augmentation {name!r}: choose of {', '.join(AUGMENTATIONS)}"
      )


SIGNAL = signals.Signal("losses", _block, _shape)


def scores(
  losses: Float[np.ndarray, "n t draws a"], *, over: str = "mean"
) -> Float[np.ndarray, "n t"]:
  """Scores from the losses; higher means member.

  Args:
    losses: of SIGNAL.
    over: what is taken over the augmentations, "mean" or "min".
  """
  if over not in OVER:
    raise ValueError(f"over = {over!r}: choose one of {', '.join(OVER)}")
  per_view = losses.mean(axis=2, dtype=np.float64)
  return -OVER[over](per_view, axis=2)


ATTACK = Attack(
  name="loss",
  source="Matsumoto et al. 2023; Carlini et al. 2023, section 5.2",
  signal=SIGNAL,
  scores=scores,
  defaults={
    "draws": 16,
    "seed": 0,
    "augment": ("identity",),
    "over": "mean",
  },
  queries=lambda *, t, draws, augment, **_: len(t) * draws * len(augment),
)

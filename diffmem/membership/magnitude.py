# SPDX-License-Identifier: Apache-2.0
"""Text-conditional magnitude: a memorized prompt pulls hard from the start.

  d[p, t, j] = || eps(x_t, t, c_p) - eps(x_t, t, null) ||_2
  score[p] = mean over the first `followed` of `steps` DDIM steps, and over
             `draws` of start noise,  higher means memorized

x_T is draw j of noise, the same for every prompt; x_t follows the chain with
classifier-free guidance. followed = 1 needs no chain at all and two network
calls a draw; `by_steps` has the scores of fewer steps and draws too.

Wen, Liu, Chen & Lyu, "Detecting, Explaining, and Mitigating Memorization in
Diffusion Models", ICLR 2024: 1, 10 or all of 50 steps, guidance 7.5.
"""

import jax.numpy as jnp
import numpy as np

from diffmem.arrays import Float
from diffmem.denoiser import conditions
from diffmem.diffusion import guidance as guiding
from diffmem.diffusion import process, schedules, steppers
from diffmem.membership import signals
from diffmem.membership.prompt_scores import Detector


def _times(schedule, *, steps, followed, **_):
  visited = schedules.respace(schedule.steps, steps)
  return tuple(int(t) for t in visited[::-1][:followed])


def _step(denoiser, params, x, to, cond, null, *, scale, clip):
  """(x of the next time, the magnitude [b]) of one guided step."""
  x = jnp.broadcast_to(x, (conditions.count(cond), *denoiser.shape))
  eps, without, _ = guiding.both(
    denoiser.predict,
    params,
    x,
    jnp.full(len(x), to.t, jnp.int32),
    cond,
    null,
  )
  size = jnp.sqrt(((eps - without) ** 2).sum((1, 2, 3)))
  eps = guiding.classifier_free(eps, without, scale)
  return steppers.ddim(x, eps, to, None, None, clip, eta=0.0), size


def _block(
  queries, images, cond, *, t, steps, followed, draws, guidance, clip, seed
):
  del images, followed  # it is the length of t
  denoiser = queries.denoiser
  table = process.reverse(
    denoiser.schedule.alpha_bar,
    schedules.respace(denoiser.schedule.steps, steps),
  )
  null = conditions.null(denoiser)
  if clip is None:
    clip = denoiser.decode is None
  found = [[] for _ in t]
  for j in range(draws):
    x = queries.noise(seed, t[0], j)[None]
    for i in range(len(t)):
      to = process.Reverse(*(column[i] for column in table))
      x, size = queries.call(
        _step, x, to, cond, null, scale=guidance, clip=clip
      )
      found[i].append(size)
  return [size for sizes in found for size in sizes]


def _shape(denoiser, *, t, steps, followed, draws, guidance, clip, seed):
  signals.at_least_one(draws=draws, followed=followed)
  if followed > steps:
    raise ValueError(
      f"followed = {followed} of steps = {steps}: a chain has no more"
    )
  return (len(t), draws)


SIGNAL = signals.Signal("magnitudes", _block, _shape)


def scores(
  magnitudes: Float[np.ndarray, "p t draws"],
) -> Float[np.ndarray, " p"]:
  """Their mean over steps and draws."""
  return magnitudes.mean(axis=(1, 2), dtype=np.float64)


def by_steps(
  magnitudes: Float[np.ndarray, "p t draws"],
) -> dict[tuple[int, int], Float[np.ndarray, " p"]]:
  """{(steps, draws): scores} of the first 1, 10 and all steps and draws."""
  _, steps, draws = magnitudes.shape
  return {
    (s, j): scores(magnitudes[:, :s, :j])
    for s in sorted({1, min(10, steps), steps})
    for j in sorted({1, draws})
  }


DETECTOR = Detector(
  name="magnitude",
  source="Wen et al. 2024",
  signal=SIGNAL,
  times=_times,
  scores=scores,
  defaults={
    "steps": 50,
    "followed": 1,
    "draws": 4,
    "guidance": 7.5,
    "clip": None,  # None: pixels are limited to [-1, 1], latents are not
  },
  queries=lambda *, followed, draws, **_: 2 * followed * draws,
)

# SPDX-License-Identifier: Apache-2.0
"""How well a denoiser denoises images that it has not seen.

  loss[i, s] = mean over draws and pixels of (eps_hat(x_t, t) - eps)^2,
  x_t = sqrt(ab_t) x_i + sqrt(1 - ab_t) eps,   t = floor((s + 1/2) T / S),

s = 0 .. S - 1: evenly over the T steps, each of weight 1 / S, so that the mean
over s estimates L_simple (Ho et al. 2020, equation 14), whatever the model
predicts or was trained by. Draw j at time t is one noise for all images and
all models of one shape: what differs between two is not the noise.

A mean over S rests on the noisiest steps as much as on those where members
are told apart: the times are told one by one, too.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import arrays, keys
from diffmem.arrays import AnyArray, Float, Int
from diffmem.denoiser import Denoiser, conditions
from diffmem.denoiser.annotated import sized
from diffmem.diffusion.losses import denoising_loss


def times(denoiser: Denoiser, count: int) -> Int[np.ndarray, " s"]:
  """`count` steps, evenly over those of the schedule."""
  steps = denoiser.schedule.steps
  if not 1 <= count <= steps:
    raise ValueError(
      f"{count} times of a schedule of {steps} steps: expected 1 to {steps}"
    )
  return ((np.arange(count) + 0.5) * steps / count).astype(np.int64)


def per_image(
  denoiser: Denoiser, *, count: int, draws: int, seed: int
) -> Callable[[AnyArray, Any], Float[np.ndarray, "n s"]]:
  """(uint8 images [n h w c], their conditions or None) -> losses [n s].

  Calls with one number of images share one program.

  Raises:
    ValueError: impossible numbers of times or draws.
  """
  if draws < 1:
    raise ValueError(f"{draws} draws of noise: expected at least 1")
  chosen = times(denoiser, count)
  key = keys.stream(keys.root(seed), "quality noise")
  encode, shape = denoiser.encode, tuple(denoiser.shape)

  def one(params, x0, t, draw, key, cond):
    noise = jax.random.fold_in(jax.random.fold_in(key, t), draw)
    eps = jax.random.normal(noise, shape)
    return denoising_loss(
      lambda x_t, times, c: denoiser.predict(params, x_t, times, c)[0],
      x0,
      jnp.full(len(x0), t, jnp.int32),
      jnp.broadcast_to(eps[None], x0.shape),
      cond,
      schedule=denoiser.schedule,
    )

  run = jax.jit(one) if denoiser.traceable else one

  def measure(images: AnyArray, cond: Any) -> Float[np.ndarray, "n s"]:
    x0 = sized(images, denoiser)
    if x0.dtype == np.uint8:
      x0 = arrays.from_uint8(x0)
    if encode is not None:
      x0 = jnp.asarray(encode(x0), jnp.float32)
    if x0.shape[1:] != shape:
      raise ValueError(
        f"images of {tuple(x0.shape[1:])} for a model of {shape}: bring them "
        "to its size with data.crop and data.resize"
      )
    if cond is not None:
      cond = conditions.check(denoiser, cond, len(images))
    columns = []
    for t in chosen:
      found = [
        run(denoiser.params, x0, jnp.int32(t), jnp.int32(j), key, cond)
        for j in range(draws)
      ]
      columns.append(np.mean([np.asarray(f) for f in found], axis=0))
    return np.stack(columns, axis=1)

  return measure

# SPDX-License-Identifier: Apache-2.0
"""Noise to image: the sampling loop, a pure function of ids.

  k_i     = keys.per_id(key, ids)_i              one key per sample
  x_{T-1} = normal(stream(k_i, "start"))
  x_u     = step(x_t, eps(x_t, t, cond), normal(stream(k_i, "step", t)))

so that the noise of sample i depends on (key, i, t) alone: not on the batch,
its order, the devices or the number of steps. Only x is carried.

A denoiser that JAX can trace runs in one `lax.scan` over the visited times;
any other runs in a host loop around jitted steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffmem import keys
from diffmem.arrays import AnyArray, Float, Int, Key
from diffmem.denoiser.protocol import Denoiser
from diffmem.diffusion import guidance as guiding
from diffmem.diffusion import process, schedules, steppers

Sampler = Callable[..., Float[jax.Array, "b h w c"]]


def chain(
  denoiser: Denoiser,
  *,
  stepper: str,
  steps: int,
  eta: float,
  guidance: float,
  clip: bool | float,
  spacing: str = "uniform",
  prepare: Callable[..., Any] | None = None,
) -> Sampler:
  """fn(params, ids int [b], key, cond=None) -> images float32 [b h w c].

  Args:
    denoiser: what predicts the noise. fn uses the params that it is given;
      pass denoiser.params (or copies of them on devices), None if it has none.
    stepper: a name in steppers.STEPPERS.
    steps: how many network calls; schedules.respace picks the times.
    eta: noise of ddim, 0 none, 1 as ancestral; other steppers ignore it.
    guidance: classifier-free scale, 1 for the plain model.
    clip: limit each predicted x0 to [-1, 1] (not for a model of latents), or
      a number: dynamic thresholding; see steppers.
    spacing: see schedules.respace.
    prepare: prepare(params, x, cond, id_keys) -> cond, once before the first
      step at x_{T-1}; see `sample.mitigation`.

  Returns:
    fn, which JAX can trace if the denoiser is traceable. cond has one row per
    id (or is None). Latents are decoded if the denoiser has `decode`.

  Raises:
    ValueError: for options that do not fit the denoiser, at once.
  """
  schedule = denoiser.schedule
  times = schedules.respace(schedule.steps, steps, spacing)
  table = process.reverse(schedule.alpha_bar, times)
  method = _method(denoiser, stepper, eta)
  steppers.check_clip(clip)
  predict = _guided(denoiser, guidance)

  def update(x, eps, fraction, to, id_keys):
    z = step_noise(id_keys, to.t, denoiser.shape) if method.noisy else None
    return method.step(x, eps, to, z, fraction, clip)

  def sample(params, ids, key, cond=None):
    if guidance != 1.0 and cond is None:
      raise ValueError(f"guidance={guidance} needs cond, got None")
    id_keys = keys.per_id(key, ids)
    x = start_noise(id_keys, denoiser.shape)
    if prepare is not None:
      cond = prepare(params, x, cond, id_keys)
    run = _scan if denoiser.traceable else _host_loop
    x = run(lambda x, t: predict(params, x, t, cond), update, x, table, id_keys)
    return x if denoiser.decode is None else denoiser.decode(x)

  return sample


def _method(denoiser: Denoiser, name: str, eta: float) -> steppers.Stepper:
  method = steppers.create(name, eta=eta)
  if method.learned and not denoiser.learned_variance:
    raise ValueError(
      f"stepper {name!r} needs a model with learned_variance:"
      f" choose ddpm_fixed_small or ddpm_fixed_large"
    )
  return method


def _guided(denoiser: Denoiser, scale: float) -> Callable[..., Any]:
  if scale == 1.0:
    return denoiser.predict
  denoiser.require("null_cond", by=f"guidance={scale}")
  return guiding.guided(denoiser.predict, denoiser.null_cond, scale)


def start_noise(
  id_keys: Key[jax.Array, " b"], shape: tuple[int, ...]
) -> Float[jax.Array, "b h w c"]:
  """x_{T-1} ~ N(0, I) for each id."""
  return jax.vmap(
    lambda key: jax.random.normal(keys.stream(key, "start"), shape)
  )(id_keys)


def step_noise(
  id_keys: Key[jax.Array, " b"], t: Int[AnyArray, ""], shape: tuple[int, ...]
) -> Float[jax.Array, "b h w c"]:
  """The z of the step that leaves time t, for each id."""
  return jax.vmap(
    lambda key: jax.random.normal(keys.stream(key, "step", t), shape)
  )(id_keys)


def _scan(predict: Any, update: Any, x: Any, table: Any, id_keys: Any) -> Any:
  def body(x, to):
    eps, fraction = predict(x, jnp.full(len(x), to.t, jnp.int32))
    return update(x, eps, fraction, to, id_keys), None

  return jax.lax.scan(body, x, table)[0]


def _host_loop(
  predict: Any, update: Any, x: Any, table: Any, id_keys: Any
) -> Any:
  update = jax.jit(update)
  for row in range(len(table.t)):
    to = jax.tree.map(lambda column, row=row: column[row], table)
    eps, fraction = predict(x, jnp.full(len(x), to.t, jnp.int32))
    x = update(x, eps, fraction, to, id_keys)
  return x

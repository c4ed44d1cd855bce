# SPDX-License-Identifier: Apache-2.0
"""Denoising losses, per example: the same for training and for membership.

  mse     L_simple = mean over pixels of (prediction - target)^2, the target
          being eps, x0 or v; unit: squared target per pixel
          (Ho et al. 2020, equation 14)
  hybrid  L_simple + 0.001 L_vlb, for a network that also gives a variance
          (2c channels). L_vlb = T L_t estimates the variational bound from
          one t, in bits per pixel, L_t being
            t > 0:  KL( q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t) )
            t = 0:  -log p(x0 | x_0), a Gaussian integrated over each of the
                    256 grey levels
          Its mean has a stopped gradient: it trains the variance alone
          (Nichol & Dhariwal 2021, section 3).

The variance channels v give the fraction (v + 1) / 2 between log tilde and
log beta (`process.split_output`, `steppers.log_interpolated`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from diffmem.arrays import AnyArray, Float, Int
from diffmem.diffusion import process, steppers
from diffmem.diffusion.schedules import Schedule

VLB_WEIGHT = 0.001  # Nichol & Dhariwal 2021, section 3.1


def denoising_loss(
  apply_fn: Callable,
  x0: Float[AnyArray, "b h w c"],
  t: Int[AnyArray, " b"],
  eps: Float[AnyArray, "b h w c"],
  cond: object = None,
  *,
  schedule: Schedule,
  prediction: str = "eps",
  loss: str = "mse",
) -> Float[jax.Array, " b"]:
  """How badly apply_fn(x_t, t, cond) denoises x_t = a x0 + s eps, [b].

  apply_fn gives [b h w c] in the form that `prediction` names, or [b h w 2c]
  where `loss` is "hybrid". Unit: see the module.
  """
  if loss not in LOSSES:
    raise ValueError(
      f"unknown loss {loss!r}: choose one of {', '.join(LOSSES)}"
    )
  process.check_prediction(prediction)
  x_t = process.add_noise(x0, eps, t, schedule.alpha_bar)
  output = jnp.asarray(apply_fn(x_t, t, cond), jnp.float32)
  c = x0.shape[-1] * (2 if loss == "hybrid" else 1)
  if output.shape != (*x0.shape[:-1], c):
    raise ValueError(
      f"loss {loss!r} needs predictions of {c} channels for images"
      f" {tuple(x0.shape[1:])}, got {tuple(output.shape)}:"
      f" set the network's learned_variance and the loss to agree"
    )
  return LOSSES[loss](output, x0, x_t, t, eps, schedule, prediction)


def _mse(output, x0, x_t, t, eps, schedule, prediction):
  target = process.convert(
    eps, x_t, t, schedule.alpha_bar, source="eps", target=prediction
  )
  if prediction == "x0":
    target = x0
  return jnp.mean((output - target) ** 2, axis=(1, 2, 3))


def _hybrid(output, x0, x_t, t, eps, schedule, prediction):
  value, fraction = process.split_output(output)
  simple = _mse(value, x0, x_t, t, eps, schedule, prediction)
  x0_hat = process.convert(
    jax.lax.stop_gradient(value),
    x_t,
    t,
    schedule.alpha_bar,
    source=prediction,
    target="x0",
  )
  bits = bound_term(x0, x_t, t, x0_hat, fraction, schedule)
  return simple + VLB_WEIGHT * schedule.steps * bits


def bound_term(
  x0: Float[AnyArray, "b h w c"],
  x_t: Float[AnyArray, "b h w c"],
  t: Int[AnyArray, " b"],
  x0_hat: Float[AnyArray, "b h w c"],
  fraction: Float[AnyArray, "b h w c"],
  schedule: Schedule,
) -> Float[jax.Array, " b"]:
  """L_t, one term of the variational bound, in bits per pixel, [b]."""
  table = process.reverse(schedule.alpha_bar, np.arange(schedule.steps))
  row = schedule.steps - 1 - process.per_image(jnp.asarray(t))
  to = jax.tree.map(lambda column: jnp.asarray(column)[row], table)
  log_variance = steppers.log_interpolated(fraction, to)
  true_mean = to.from_x0 * x0 + to.from_xt * x_t
  mean = to.from_x0 * x0_hat + to.from_xt * x_t
  kl = _normal_kl(true_mean, to.log_tilde, mean, log_variance)
  nats = jnp.where(to.noisy > 0, kl, -_log_grey(x0, mean, log_variance))
  return jnp.mean(nats, axis=(1, 2, 3)) / np.log(2.0)


def _normal_kl(mean, log_variance, other_mean, other_log_variance):
  """KL(N(mean, var) || N(other)), elementwise, nats."""
  gap = log_variance - other_log_variance
  return 0.5 * (
    -1.0
    - gap
    + jnp.exp(gap)
    + (mean - other_mean) ** 2 * jnp.exp(-other_log_variance)
  )


def _log_grey(x0, mean, log_variance):
  """Log mass of N(mean, var) in x0's grey level; the ends reach infinity."""
  d, far = x0 - mean, 1e3
  below = jnp.where(x0 < -0.999, -far, d - 1.0 / 255.0)
  above = jnp.where(x0 > 0.999, far, d + 1.0 / 255.0)
  # By symmetry taken in the lower tail, where the normal cdf keeps digits.
  flip = d > 0
  below, above = (
    jnp.where(flip, -above, below),
    jnp.where(flip, -below, above),
  )
  scale = jnp.exp(-0.5 * log_variance)
  mass = ndtr(above * scale) - ndtr(below * scale)
  return jnp.log(jnp.maximum(mass, 1e-12))


LOSSES = {"mse": _mse, "hybrid": _hybrid}

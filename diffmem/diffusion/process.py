# SPDX-License-Identifier: Apache-2.0
"""The noising process, its three parametrisations, and its posterior.

With signal a = sqrt(ab_t) and noise s = sqrt(1 - ab_t), a^2 + s^2 = 1:

  x_t = a x0 + s eps
  v   = a eps - s x0               (Salimans & Ho 2022)
  x0  = (x_t - s eps) / a = a x_t - s v
  eps = (x_t - a x0) / s  = s x_t + a v

A reverse step goes from t to the next visited time u < t (after the last one,
to ab_u = 1: the image). With beta = 1 - ab_t / ab_u, which is beta_t itself
when no step is left out (Nichol & Dhariwal 2021, section 4):

  q(x_u | x_t, x0) = N(from_x0 x0 + from_xt x_t, tilde),
  from_x0 = sqrt(ab_u) beta / (1 - ab_t),
  from_xt = sqrt(1 - beta) (1 - ab_u) / (1 - ab_t),
  tilde   = beta (1 - ab_u) / (1 - ab_t)          (Ho et al. 2020, eqs. 6, 7).

All coefficients are computed in float64 on the host and used in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float, Int

PREDICTIONS = ("eps", "x0", "v")


def levels(
  t: Int[AnyArray, "..."], alpha_bar: Float[np.ndarray, " t"]
) -> tuple[Float[jax.Array, "..."], Float[jax.Array, "..."]]:
  """(signal, noise) = (sqrt(ab_t), sqrt(1 - ab_t)), float32, shaped like t."""
  t = jnp.asarray(t)
  signal = jnp.asarray(np.sqrt(alpha_bar), jnp.float32)
  noise = jnp.asarray(np.sqrt(1.0 - alpha_bar), jnp.float32)
  return signal[t], noise[t]


def add_noise(
  x0: Float[AnyArray, "b h w c"],
  eps: Float[AnyArray, "b h w c"],
  t: Int[AnyArray, " b"],
  alpha_bar: Float[np.ndarray, " t"],
) -> Float[jax.Array, "b h w c"]:
  """x_t = a x0 + s eps, each example at its own t."""
  signal, noise = levels(per_image(t), alpha_bar)
  return signal * x0 + noise * eps


def convert(
  value: Float[AnyArray, "b h w c"],
  x_t: Float[AnyArray, "b h w c"],
  t: Int[AnyArray, " b"],
  alpha_bar: Float[np.ndarray, " t"],
  *,
  source: str,
  target: str,
) -> Float[jax.Array, "b h w c"]:
  """One of "eps", "x0", "v" at x_t into another; float32."""
  check_prediction(source)
  check_prediction(target)
  value = jnp.asarray(value, jnp.float32)
  if source == target:
    return value
  x_t = jnp.asarray(x_t, jnp.float32)
  a, s = levels(per_image(t), alpha_bar)
  if source == "v":
    x0, eps = a * x_t - s * value, s * x_t + a * value
  elif source == "x0":
    x0, eps = value, (x_t - a * value) / s
  else:
    x0, eps = (x_t - s * value) / a, value
  if target == "v":
    return a * eps - s * x0
  return x0 if target == "x0" else eps


def split_output(
  output: Float[AnyArray, "b h w c2"],
) -> tuple[Float[AnyArray, "b h w c"], Float[AnyArray, "b h w c"]]:
  """2c channels -> (prediction, variance fraction (v + 1) / 2)."""
  prediction, v = jnp.split(output, 2, axis=-1)
  return prediction, (v + 1.0) / 2.0


def check_prediction(name: str) -> None:
  """Raises ValueError unless `name` is a prediction that can be converted."""
  if name not in PREDICTIONS:
    raise ValueError(
      f"unknown prediction {name!r}: choose one of {', '.join(PREDICTIONS)}"
    )


def per_image(t: Int[AnyArray, " b"]) -> Int[AnyArray, "b 1 1 1"]:
  """One number per example, shaped to multiply images."""
  return t[:, None, None, None]


class Reverse(NamedTuple):
  """Coefficients of reverse steps t -> u: scalars, or one row per step.

  log_tilde stands in for log 0 at the last step by the value of the step
  before it (Nichol & Dhariwal 2021, code), which has noisy = 0.
  """

  t: Int[AnyArray, "..."]
  signal: Float[AnyArray, "..."]  # sqrt(ab_t)
  noise: Float[AnyArray, "..."]  # sqrt(1 - ab_t)
  next_signal: Float[AnyArray, "..."]  # sqrt(ab_u)
  next_noise: Float[AnyArray, "..."]  # sqrt(1 - ab_u)
  from_x0: Float[AnyArray, "..."]
  from_xt: Float[AnyArray, "..."]
  log_beta: Float[AnyArray, "..."]
  log_tilde: Float[AnyArray, "..."]
  noisy: Float[AnyArray, "..."]  # 0 for the step to the image, else 1


def reverse(
  alpha_bar: Float[np.ndarray, " t"], times: Int[np.ndarray, " s"]
) -> Reverse:
  """The steps that visit `times` (increasing), last time first; float32."""
  now = alpha_bar[times]
  then = np.append(1.0, now[:-1])
  beta = 1.0 - now / then
  tilde = beta * (1.0 - then) / (1.0 - now)
  tilde[0] = tilde[1] if len(times) > 1 else beta[0]
  table = Reverse(
    t=times,
    signal=np.sqrt(now),
    noise=np.sqrt(1.0 - now),
    next_signal=np.sqrt(then),
    next_noise=np.sqrt(1.0 - then),
    from_x0=np.sqrt(then) * beta / (1.0 - now),
    from_xt=np.sqrt(1.0 - beta) * (1.0 - then) / (1.0 - now),
    log_beta=np.log(beta),
    log_tilde=np.log(tilde),
    noisy=(then < 1.0).astype(np.float64),
  )
  rows = [np.asarray(column[::-1], np.float32) for column in table]
  return Reverse(*rows)._replace(t=times[::-1].astype(np.int32))

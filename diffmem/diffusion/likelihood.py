# SPDX-License-Identifier: Apache-2.0
"""How likely a model finds an image: an exact density, and a bound.

**Density.** In y = x_t / a and sigma = s / a (a = sqrt(ab_t), s = sqrt(1 -
ab_t)) the probability-flow equation of a diffusion and the density along it
are (Song et al. 2021, arXiv:2011.13456, equations 13 and 39; this form: Karras
et al. 2022, equation 1)

  dy / dsigma = eps(a y, t),   d log p(y) / dsigma = -tr d eps / dy,

so that, from index t up to T - 1 where x is standard normal,

  log p_t(y) = log N(a_T y_T; 0, I) + d log a_T + integral of tr d eps / dy.

p_t is the model's density of x0 + sigma_t z, z ~ N(0, I): at t = 0 that of its
images, blurred by 1.3 grey levels with the linear schedule. Heun's method on
the levels of the discrete schedule, about evenly apart in log sigma: y in
steps of sigma, the trace in steps of log sigma, where each is nearly straight.
The trace is exact (d products), or v' (d eps / dy)' v averaged over probes v
of random signs (Hutchinson 1990), the same ones all along. Products with the
transpose, since networks may define reverse derivatives alone; each step is
one jitted call, for loops of them are slow on CPUs.

**Bound.** -log2 P(x0) <= L_T + sum_t L_t in bits (Ho et al. 2020, equation 5),
for an image of 256 grey levels; one draw of noise for every t and id.

Nats for densities of [-1, 1] pixels; `bits` brings them to bits a pixel and
channel, in grey levels. Noise is a function of (key, id): it is the same for
every model, which makes differences of models far sharper than either.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import keys
from diffmem.arrays import AnyArray, Float, Int, Key
from diffmem.diffusion import losses, process
from diffmem.diffusion.schedules import Schedule

Predict = Callable[..., tuple[Any, Any]]
FRACTIONS = {"fixed_small": 0.0, "fixed_large": 1.0, "learned": None}


def log_density(
  predict: Predict,
  schedule: Schedule,
  *,
  steps: int,
  probes: int | None,
  t: int = 0,
) -> Callable[..., Float[jax.Array, " b"]]:
  """fn(params, y [b h w c], ids int [b], key, cond=None) -> log p_t(y) [b].

  Args:
    predict: predict(params, x_t, t, cond) -> (eps, _), as `Denoiser.predict`;
      JAX must be able to differentiate it.
    schedule: the noise levels that it was trained on.
    steps: at most so many of them are stepped over, two calls each.
    probes: random signs that estimate the trace; None for the exact one.
    t: the index that y is noised to.

  Returns:
    fn, which loops on the host. Nats; y are in the units of images.

  Raises:
    ValueError: for options that cannot be, at once.
  """
  schedule.check(t)
  if steps < 1:
    raise ValueError(f"steps={steps}: expected at least 1")
  if probes is not None and probes < 1:
    raise ValueError(f"probes={probes}: expected at least 1, or None for exact")
  times = levels(schedule, t, steps)
  signal = np.sqrt(schedule.alpha_bar[times])
  sigma = np.sqrt(1.0 - schedule.alpha_bar[times]) / signal
  slope = jax.jit(functools.partial(_slope, predict))

  def fn(params, y, ids, key, cond=None):
    y = jnp.asarray(y, jnp.float32)
    signs = None if probes is None else _signs(ids, key, probes, y.shape)
    total = jnp.zeros(len(y), jnp.float32)
    for i in range(len(times) - 1):
      t, a = times[i : i + 2], signal[i : i + 2]
      low, high = sigma[i : i + 2]
      eps, trace = slope(params, y, t[0], a[0], signs, cond)
      guess = y + (high - low) * eps
      ahead, other = slope(params, guess, t[1], a[1], signs, cond)
      y = y + (high - low) / 2 * (eps + ahead)
      total += np.log(high / low) / 2 * (low * trace + high * other)
    return _normal(y * signal[-1]) + y[0].size * np.log(signal[-1]) + total

  return fn


def levels(schedule: Schedule, t: int, steps: int) -> Int[np.ndarray, " s"]:
  """Indices from t to T - 1, at most steps + 1, even in log sigma."""
  alpha_bar = schedule.alpha_bar
  log_sigma = 0.5 * (np.log1p(-alpha_bar) - np.log(alpha_bar))
  wanted = np.linspace(log_sigma[t], log_sigma[-1], steps + 1)
  found = np.searchsorted(log_sigma, wanted - 1e-12)
  return np.unique(np.minimum(found, schedule.steps - 1))


def elbo(
  predict: Predict,
  schedule: Schedule,
  *,
  variance: str,
  clip: bool,
) -> Callable[..., Float[jax.Array, " b"]]:
  """fn(params, images [b h w c], ids int [b], key, cond=None) -> bits [b].

  An upper bound on -log2 P(image), a pixel and channel, for float images that
  are grey levels (`arrays.from_uint8`).

  Args:
    predict: predict(params, x_t, t, cond) -> (eps, variance fraction or None).
    schedule: the noise levels that it was trained on.
    variance: of a reverse step: "fixed_small", "fixed_large" or "learned".
    clip: limit each predicted x0 to [-1, 1].

  Returns:
    fn, which JAX can trace: one loop over all times, forward only.
  """
  if variance not in FRACTIONS:
    raise ValueError(
      f"unknown variance {variance!r}: choose one of {', '.join(FRACTIONS)}"
    )
  fixed = FRACTIONS[variance]

  def fn(params, images, ids, key, cond=None):
    x0 = jnp.asarray(images, jnp.float32)
    id_keys = keys.per_id(key, ids)

    def term(total, t):
      eps = _normals(id_keys, "bound", t, x0.shape[1:])
      at = jnp.full(len(x0), t, jnp.int32)
      x_t = process.add_noise(x0, eps, at, schedule.alpha_bar)
      found, fraction = predict(params, x_t, at, cond)
      x0_hat = process.convert(
        found, x_t, at, schedule.alpha_bar, source="eps", target="x0"
      )
      if clip:
        x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
      if fixed is not None:
        fraction = jnp.full_like(x0, fixed)
      elif fraction is None:
        raise ValueError(
          "variance='learned' needs a network with learned_variance: choose "
          "fixed_small or fixed_large"
        )
      bits = losses.bound_term(x0, x_t, at, x0_hat, fraction, schedule)
      return total + bits, None

    times = jnp.arange(schedule.steps, dtype=jnp.int32)
    total, _ = jax.lax.scan(term, jnp.zeros(len(x0), jnp.float32), times)
    return total + _prior(x0, schedule)

  return fn


def bits(nats: Float[AnyArray, " b"], dimensions: int) -> Float[AnyArray, " b"]:
  """-log2 density, a dimension, of grey levels (pixels are 127.5 x + 127.5)."""
  return (np.log(127.5) - nats / dimensions) / np.log(2.0)


def _slope(predict, params, y, t, signal, signs, cond):
  """(eps(a y, t), its trace along y [b])."""
  t = jnp.full(len(y), t, jnp.int32)

  def slope(y):
    return predict(params, signal * y, t, cond)[0]

  eps, transpose = jax.vjp(slope, y)
  if signs is not None:
    products = jax.vmap(lambda v: jnp.sum(v * transpose(v)[0], (1, 2, 3)))
    return eps, products(signs).mean(0)
  d = y[0].size

  def diagonal(k):
    v = jnp.zeros((len(y), d)).at[:, k].set(1.0).reshape(y.shape)
    return transpose(v)[0].reshape(len(y), d)[:, k]

  return eps, jax.vmap(diagonal)(jnp.arange(d)).sum(0)


def _signs(
  ids: Int[AnyArray, " b"],
  key: Key[jax.Array, ""],
  probes: int,
  shape: tuple[int, ...],
) -> Float[jax.Array, "p b h w c"]:
  def one(id_key, j):
    return jax.random.rademacher(
      keys.stream(id_key, "probe", j), shape[1:], jnp.float32
    )

  id_keys = keys.per_id(key, ids)
  each = jax.vmap(one, in_axes=(0, None))
  return jax.vmap(each, in_axes=(None, 0))(id_keys, jnp.arange(probes))


def _normals(id_keys, name: str, t, shape) -> Float[jax.Array, "b h w c"]:
  return jax.vmap(
    lambda key: jax.random.normal(keys.stream(key, name, t), shape)
  )(id_keys)


def _normal(x: Float[jax.Array, "b h w c"]) -> Float[jax.Array, " b"]:
  return -0.5 * jnp.sum(x**2 + np.log(2 * np.pi), (1, 2, 3))


def _prior(
  x0: Float[jax.Array, "b h w c"], schedule: Schedule
) -> Float[jax.Array, " b"]:
  """L_T: bits between q(x_T | x0) and N(0, I)."""
  ab = float(schedule.alpha_bar[-1])
  nats = 0.5 * (ab * x0**2 - ab - np.log1p(-ab))
  return jnp.mean(nats, (1, 2, 3)) / np.log(2.0)

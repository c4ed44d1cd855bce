# SPDX-License-Identifier: Apache-2.0
"""Reverse steps x_t -> x_u: one pure function each.

From the predicted eps, x0 = (x_t - s eps) / a; with `clip` it is limited to
[-1, 1], and eps is made to agree: (x_t - a x0) / s. A number p in (0, 1) as
`clip` is dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section
2.3), which large guidance needs: for each image by itself

  x0 <- clip(x0, -q, q) / q,   q = max(1, the p-quantile of |x0|).

Symbols are those of `process`; z ~ N(0, I), which the step to the image leaves
out.

  ddim  x_u = sqrt(ab_u) x0 + sqrt(1 - ab_u - sigma^2) eps + sigma z,
        sigma = eta sqrt(tilde)              (Song et al. 2021, equation 12)
  ddpm  x_u = from_x0 x0 + from_xt x_t + sigma z, with sigma^2 =
          fixed_small  tilde                 (Ho et al. 2020, section 3.2)
          fixed_large  beta
          learned      exp(f log beta + (1 - f) log tilde), f from the network
                                             (Nichol & Dhariwal 2021, eq. 15)

ddim with eta = 1 is ddpm_fixed_small, exactly.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float, Int
from diffmem.diffusion import process
from diffmem.diffusion.process import Reverse

Images = Float[AnyArray, "b h w c"]
Clip = bool | float


@dataclasses.dataclass(frozen=True)
class Stepper:
  """A reverse step, and what must be given to it.

  step(x_t, eps, to, z, fraction, clip) -> x_u; `to` holds the coefficients
  (scalars), z is None unless `noisy`, fraction None unless `learned`.
  """

  step: Callable
  noisy: bool
  learned: bool


def ddim(
  x_t: Images,
  eps: Images,
  to: Reverse,
  z: Images | None,
  fraction: Images | None,
  clip: Clip,
  *,
  eta: float,
) -> Images:
  """Denoising diffusion implicit step; eta 0 is deterministic."""
  del fraction
  x0, eps = clean(x_t, eps, to, clip)
  if z is None:
    return to.next_signal * x0 + to.next_noise * eps
  sigma = to.noisy * eta * jnp.exp(0.5 * to.log_tilde)
  rest = jnp.sqrt(jnp.maximum(to.next_noise**2 - sigma**2, 0.0))
  return to.next_signal * x0 + rest * eps + sigma * z


def ddpm(
  x_t: Images,
  eps: Images,
  to: Reverse,
  z: Images | None,
  fraction: Images | None,
  clip: Clip,
  *,
  variance: str,
) -> Images:
  """Ancestral step: a draw from p(x_u | x_t)."""
  x0, _ = clean(x_t, eps, to, clip)
  assert z is not None
  mean = to.from_x0 * x0 + to.from_xt * x_t
  if variance == "learned":
    assert fraction is not None
    log_variance = log_interpolated(fraction, to)
  else:
    log_variance = {
      "fixed_small": to.log_tilde,
      "fixed_large": to.log_beta,
    }[variance]
  return mean + to.noisy * jnp.exp(0.5 * log_variance) * z


STEPPERS = {
  "ddim": ddim,
  "ddpm_fixed_small": functools.partial(ddpm, variance="fixed_small"),
  "ddpm_fixed_large": functools.partial(ddpm, variance="fixed_large"),
  "ddpm_learned": functools.partial(ddpm, variance="learned"),
}


def create(name: str, *, eta: float) -> Stepper:
  """The stepper of that name; `eta` in [0, 1] is for ddim, others have none."""
  if name not in STEPPERS:
    raise ValueError(
      f"unknown stepper {name!r}: choose one of {', '.join(STEPPERS)}"
    )
  if not 0.0 <= eta <= 1.0:
    raise ValueError(f"eta={eta} must be between 0 (no noise) and 1 (as ddpm)")
  step = STEPPERS[name]
  if name == "ddim":
    step = functools.partial(step, eta=eta)
  return Stepper(
    step=step,
    noisy=name != "ddim" or eta > 0,
    learned=name == "ddpm_learned",
  )


def clean(
  x_t: Images, eps: Images, to: Reverse, clip: Clip
) -> tuple[Images, Images]:
  """The predicted (x0, eps), with x0 limited to [-1, 1] as `clip` says."""
  x0 = (x_t - to.noise * eps) / to.signal
  if clip:
    x0 = limited(x0, clip)
    eps = (x_t - to.signal * x0) / to.noise
  return x0, eps


def limited(x0: Images, clip: Clip) -> Images:
  """x0 in [-1, 1]: cut for clip=True, for a number p by its p-quantile."""
  if clip is True:
    return jnp.clip(x0, -1.0, 1.0)
  q = jnp.maximum(_quantile(jnp.abs(x0).reshape(len(x0), -1), clip), 1.0)
  q = q[:, None, None, None]
  return jnp.clip(x0, -q, q) / q


def _quantile(
  values: Float[AnyArray, "b d"], p: float
) -> Float[AnyArray, " b"]:
  """The p-quantile of each row, interpolated; only what is above is sorted."""
  d = values.shape[1]
  place = p * (d - 1)
  below = int(place)
  top = jax.lax.top_k(values, d - below)[0]
  low, high = top[:, -1], top[:, max(d - below - 2, 0)]
  return low + (place - below) * (high - low)


def check_clip(clip: Clip) -> None:
  """ValueError unless `clip` is True, False or a number in (0, 1)."""
  if not isinstance(clip, bool) and not 0.0 < clip < 1.0:
    raise ValueError(
      f"clip={clip}: choose True, False, or for dynamic thresholding a "
      "quantile between 0 and 1, such as 0.995"
    )


def log_interpolated(fraction: Images, to: Reverse) -> Images:
  """The learned log variance: fraction 0 is tilde, 1 is beta."""
  return fraction * to.log_beta + (1.0 - fraction) * to.log_tilde


def transport(
  x: Images,
  eps: Images,
  t: Int[AnyArray, " b"],
  u: Int[AnyArray, " b"],
  alpha_bar: Float[np.ndarray, " t"],
) -> Images:
  """Deterministic ddim hop from time t to time u, either way; no clipping.

  With u > t this is DDIM inversion (SecMI's phi, Duan et al. 2023). Times
  are indices: an image taken to be at index 0 has ab_0, not 1.
  """
  signal, noise = process.levels(process.per_image(t), alpha_bar)
  to_signal, to_noise = process.levels(process.per_image(u), alpha_bar)
  return to_signal * ((x - noise * eps) / signal) + to_noise * eps

# SPDX-License-Identifier: Apache-2.0
"""Denoisers in closed form: they need no training, and their truth is known.

With a = sqrt(ab_t), s = sqrt(1 - ab_t), the best eps is that of the posterior
mean, eps = (x_t - a x0_hat) / s = -s grad log p(x_t).

  finite_set  The data are n images y_i, equally likely: memorizes everything.
                x0_hat = sum_i w_i y_i,
                w = softmax_i( -|x_t - a y_i|^2 / (2 s^2) )
  gaussian    The data are N(mu, C): memorizes nothing. With C = U diag(l) U^T,
                eps = s U diag(1 / (a^2 l + s^2)) U^T (x_t - a mu)

In finite_set the square is expanded (|x_t|^2 drops out of the softmax) and
both sides are centred on the mean image. In float32 this puts an error of
about 1e-7 |x_t| |y| / s^2 on each exponent: at t = 0 of the linear schedule,
0.05 for an 8x8 image, which matters only between images that differ by a few
grey levels. Memory is b n floats beside the n images.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float, Int
from diffmem.denoiser.protocol import Denoiser
from diffmem.diffusion import process
from diffmem.diffusion.schedules import Schedule

PRODUCT = jax.lax.Precision.HIGHEST  # accelerators round inputs otherwise


def finite_set(
  images: AnyArray,
  schedule: Schedule,
  *,
  labels: Int[AnyArray, " n"] | None = None,
) -> Denoiser:
  """The optimal denoiser of n images [n h w c], float in [-1, 1].

  With `labels` 0 .. k-1 it is class-conditional: cond i restricts the set to
  images labelled i; the null condition k, like no cond, means all of them.
  Its params are the images. Raises ValueError for uint8 or out-of-range
  images, and for labels that leave a class empty.
  """
  check_images(images)
  params = set_params(images)
  classes = None
  if labels is not None:
    classes = _count_classes(np.asarray(labels), len(images))
    params["labels"] = jnp.asarray(labels, jnp.int32)

  def apply(params, x_t, t, cond=None):
    log_prior = None
    if classes is not None and cond is not None:
      cond = cond[:, None]
      allowed = (cond == params["labels"][None]) | (cond == classes)
      log_prior = jnp.where(allowed, 0.0, -jnp.inf)
    return set_eps(params, x_t, t, log_prior, schedule)

  return Denoiser(
    schedule=schedule,
    shape=tuple(images.shape[1:]),
    params=params,
    apply=apply,
    null_cond=classes,
    num_classes=classes,
  )


def set_params(images: AnyArray) -> dict[str, jax.Array]:
  """What `set_eps` needs of n images [n h w c]."""
  flat = np.asarray(images, np.float64).reshape(len(images), -1)
  mean = flat.mean(axis=0)
  centred = flat - mean
  return {
    "mean": jnp.asarray(mean, jnp.float32),
    "centred": jnp.asarray(centred, jnp.float32),
    "half_norms": jnp.asarray((centred**2).sum(axis=1) / 2, jnp.float32),
  }


def set_eps(
  params: Any,
  x_t: Float[AnyArray, "b h w c"],
  t: Int[AnyArray, " b"],
  log_prior: Float[AnyArray, "b n"] | None,
  schedule: Schedule,
) -> Float[jax.Array, "b h w c"]:
  """The best eps where image i has the log weight log_prior[:, i]."""
  a, s = process.levels(t[:, None], schedule.alpha_bar)
  x = x_t.reshape(len(x_t), -1) - a * params["mean"][None]
  exponent = a * jnp.matmul(x, params["centred"].T, precision=PRODUCT)
  exponent = (exponent - a**2 * params["half_norms"][None]) / s**2
  if log_prior is not None:
    exponent = exponent + log_prior
  weights = jax.nn.softmax(exponent, axis=-1)
  centre = jnp.matmul(weights, params["centred"], precision=PRODUCT)
  return ((x - a * centre) / s).reshape(x_t.shape)


def gaussian(
  mean: Float[AnyArray, "h w c"],
  cov: Float[AnyArray, "d d"],
  schedule: Schedule,
) -> Denoiser:
  """The optimal denoiser of images drawn from N(mean, cov), d = h w c.

  cov may be singular. Its params are mean and the eigenvectors of cov.
  Raises ValueError if cov is not symmetric, not positive, or of another size.
  """
  cov = np.asarray(cov, np.float64)
  if cov.shape != (mean.size, mean.size):
    raise ValueError(
      f"cov {cov.shape} does not fit mean {mean.shape}:"
      f" give [{mean.size} {mean.size}]"
    )
  if not np.allclose(cov, cov.T, atol=1e-6 * np.abs(cov).max()):
    raise ValueError("cov is not symmetric: give a covariance matrix")
  values, vectors = np.linalg.eigh(cov)
  if values[0] < -1e-6 * max(values[-1], 1e-30):
    raise ValueError(
      f"cov has a negative eigenvalue, {values[0]:g}: give a covariance matrix"
    )
  params = {
    "mean": jnp.asarray(np.asarray(mean).reshape(-1), jnp.float32),
    "values": jnp.asarray(np.maximum(values, 0.0), jnp.float32),
    "vectors": jnp.asarray(vectors, jnp.float32),
  }

  def apply(params, x_t, t, cond=None):
    del cond
    a, s = process.levels(t[:, None], schedule.alpha_bar)
    x = x_t.reshape(len(x_t), -1) - a * params["mean"][None]
    along = jnp.matmul(x, params["vectors"], precision=PRODUCT)
    along = along * s / (a**2 * params["values"][None] + s**2)
    eps = jnp.matmul(along, params["vectors"].T, precision=PRODUCT)
    return eps.reshape(x_t.shape)

  return Denoiser(
    schedule=schedule, shape=tuple(mean.shape), params=params, apply=apply
  )


def check_images(images: AnyArray) -> None:
  """ValueError unless there are some, float in [-1, 1], [n h w c]."""
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f"images are {images.dtype}: give floats in [-1, 1], such as"
      f" diffmem.arrays.from_uint8(images)"
    )
  if images.ndim != 4:
    raise ValueError(f"images have shape {images.shape}: give [n h w c]")
  if not len(images):
    raise ValueError("finite_set got 0 images: give at least 1")
  if not float(np.abs(np.asarray(images)).max()) <= 1.0001:
    raise ValueError(
      f"images reach from {float(np.min(images)):g} to"
      f" {float(np.max(images)):g}: give floats in [-1, 1]"
    )


def _count_classes(labels: np.ndarray, n: int) -> int:
  if len(labels) != n:
    raise ValueError(f"{len(labels)} labels for {n} images: give one for each")
  present = np.unique(labels)
  if not np.array_equal(present, np.arange(len(present))):
    raise ValueError(
      f"labels run from {present[0]} to {present[-1]} with"
      f" {len(present)} values: number the classes 0, 1, ... without gaps"
    )
  return len(present)

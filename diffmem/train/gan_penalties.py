# SPDX-License-Identifier: Apache-2.0
"""Penalties on a discriminator D or a generator G, per example.

  r1           1/2 |grad D(x)|^2 at real x
               (Mescheder et al. 2018, equation 9)
  gradient     (|grad D(u x + (1 - u) G(z))| - 1)^2,  u ~ U[0, 1]; one-sided,
               max(0, |.| - 1)^2: a norm below 1 costs nothing
               (Gulrajani et al. 2017, equation 3; Petzka et al. 2018)
  lipschitz    max(0, |D(x) - D(x + r)| / |r| - k)^2, x real and generated,
               r = e d/|d|, e ~ U[least, most], d the gradient of
               |D(x) - D(x + xi u)| with respect to u, a random direction
               (Terjek 2020, adversarial Lipschitz penalty)
  path_length  (|J^T y| - a)^2, J of the image with respect to the latents,
               y ~ N(0, I / (h w)); a follows the mean of |J^T y|
               (Karras et al. 2020a, equation 4)

A lazy penalty is taken every k-th step alone, k times as heavy (Karras et al.
2020a, appendix B). D sees what it is given: where its inputs are augmented,
the gradient passes through the augmentation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffmem import keys
from diffmem.arrays import Float, Key

Images = Float[jax.Array, "b h w c"]
PerExample = Float[jax.Array, " b"]
Logits = Callable[[Any], Any]  # images [b h w c] -> [b]
_TINY = 1e-12  # under roots, whose slope at 0 is infinite


def r1(logits: Logits, real: Images) -> PerExample:
  """1/2 |grad D|^2 at each real image."""
  return 0.5 * _squares(_gradient(logits, real))


def gradient(
  logits: Logits,
  real: Images,
  fake: Images,
  key: Key[jax.Array, ""],
  *,
  one_sided: bool = False,
) -> PerExample:
  """How far the slope of D is from 1 between real and generated images."""
  u = jax.random.uniform(key, (len(real), 1, 1, 1))
  between = u * real + (1.0 - u) * fake
  over = jnp.sqrt(_squares(_gradient(logits, between)) + _TINY) - 1.0
  return (jnp.maximum(over, 0.0) if one_sided else over) ** 2


def lipschitz(
  logits: Logits,
  images: Images,
  key: Key[jax.Array, ""],
  *,
  k: float,
  xi: float,
  least: float,
  most: float,
) -> PerExample:
  """How far D rises faster than k towards its worst neighbour.

  Args:
    logits: D.
    images: real and generated, in [-1, 1], where neighbours are kept.
    key: of the direction and of the distance.
    k: the Lipschitz constant that costs nothing.
    xi: the length of the step at which the worst direction is read off.
    least, most: between which the distance of the neighbour is drawn.
  """
  images = jax.lax.stop_gradient(images)
  here = logits(images)
  frozen = jax.lax.stop_gradient(here)

  def moved(direction):
    near = jnp.clip(images + xi * direction, -1.0, 1.0)
    return jnp.abs(frozen - logits(near)).sum()

  start = jax.random.uniform(
    keys.stream(key, "direction"), images.shape, minval=-0.5, maxval=0.5
  )
  worst = _unit(jax.lax.stop_gradient(jax.grad(moved)(_unit(start))))
  length = jax.random.uniform(
    keys.stream(key, "length"), (len(images), 1, 1, 1), minval=least,
    maxval=most,
  )  # fmt: skip
  near = jnp.clip(images + length * worst, -1.0, 1.0)
  way = jnp.sqrt(_squares(near - images) + _TINY)
  slope = jnp.abs(here - logits(near)) / jnp.maximum(way, 1e-6)
  return jnp.maximum(slope - k, 0.0) ** 2


def path_length(
  images: Callable[[Any], Any],
  latents: Float[jax.Array, "b *rest"],
  mean: Float[jax.Array, ""],
  key: Key[jax.Array, ""],
) -> tuple[PerExample, PerExample]:
  """(penalty, |J^T y|) of each image.

  Args:
    images: latents -> [b h w c].
    latents: where J is taken.
    mean: a, of earlier steps; `follow` moves it.
    key: of y.
  """
  made = jax.eval_shape(images, latents)
  y = jax.random.normal(key, made.shape) / jnp.sqrt(
    made.shape[1] * made.shape[2]
  )
  slope = jax.grad(lambda w: (images(w) * y).sum())(latents)
  length = jnp.sqrt(_squares(slope) + _TINY)
  return (length - mean) ** 2, length


def follow(
  mean: Float[jax.Array, ""], lengths: PerExample, *, decay: float
) -> Float[jax.Array, ""]:
  """The mean after these lengths: a + decay (mean |J^T y| - a)."""
  return mean + decay * (jax.lax.stop_gradient(lengths).mean() - mean)


def _gradient(logits: Logits, x: Images) -> Images:
  return jax.grad(lambda images: logits(images).sum())(x)


def _squares(x: Float[jax.Array, "b *rest"]) -> PerExample:
  return (x.reshape(len(x), -1) ** 2).sum(axis=1)


def _unit(x: Images) -> Images:
  return x / jnp.sqrt(_squares(x) + _TINY)[:, None, None, None]

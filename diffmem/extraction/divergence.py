# SPDX-License-Identifier: Apache-2.0
"""How close a model's density hugs a set of images: two models compared.

The memorization divergence of a model p of a set D (Chen et al. 2025,
arXiv:2410.02467v7, definition 1) is

  M(D; p, e) = KL(q_e || p),   q_e = the mean over x_i in D of N(x_i, e^2 I);

the smaller, the more p is D itself. The entropy of q_e is the same for every
model, so it drops out of differences, which are estimated in pairs:

  M(D; p, e) - M(D; p', e) = E [log p'(x_i + e z) - log p(x_i + e z)],

over images i and z ~ N(0, I), the same z and the same probes of the trace for
both models. log p is the density of `diffusion.likelihood`. Below zero: p is
closer to D than p' is. Unit: bits a pixel and channel.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import arrays, keys
from diffmem.arrays import AnyArray, Float, UInt8
from diffmem.denoiser import Denoiser
from diffmem.diffusion import likelihood

Densities = Callable[..., Float[np.ndarray, "n r"]]
Bounds = Callable[..., Float[np.ndarray, " n"]]


def densities(
  denoiser: Denoiser,
  *,
  blur: float,
  draws: int,
  levels: int,
  probes: int | None,
  batch: int,
) -> Densities:
  """fn(params, images uint8 [n h w c], seed, cond=None) -> nats [n draws].

  log p(x_i + blur z) of every image and draw of z; image i has the same z and
  the same probes for every model.

  Args:
    denoiser: the architecture; fn is given weights, and compiles once.
    blur: e, in the units of [-1, 1].
    draws: of z for each image.
    levels, probes: see `likelihood.log_density`.
    batch: images at a time.

  Raises:
    ValueError: options that cannot be.
  """
  if blur <= 0:
    raise ValueError(f"blur={blur}: expected more than 0")
  if draws < 1:
    raise ValueError(f"draws={draws}: expected at least 1")
  log_p = likelihood.log_density(
    denoiser.predict, denoiser.schedule, steps=levels, probes=probes
  )

  @jax.jit
  def blurred(images, ids, key):
    z = jax.vmap(
      lambda k: jax.random.normal(keys.stream(k, "blur"), denoiser.shape)
    )(keys.per_id(key, ids))
    return arrays.from_uint8(images) + blur * z

  def fn(params, images, seed, cond=None):
    found = []
    for draw in range(draws):
      key = keys.stream(keys.root(seed), "divergence", draw)

      def one(block, ids, cond, key=key):
        return log_p(params, blurred(block, ids, key), ids, key, cond)

      found.append(_in_blocks(one, images, cond, batch))
    return np.stack(found, 1)

  return fn


def bounds(denoiser: Denoiser, *, variance: str, batch: int) -> Bounds:
  """fn(params, images uint8 [n h w c], seed, cond=None) -> bits [n].

  The variational bound of each image itself, see `likelihood.elbo`: another
  estimate of the same order, which needs no trace.
  """
  bound = jax.jit(
    likelihood.elbo(
      denoiser.predict, denoiser.schedule, variance=variance, clip=True
    )
  )

  def fn(params, images, seed, cond=None):
    key = keys.stream(keys.root(seed), "bound")

    def one(block, ids, cond):
      return bound(params, arrays.from_uint8(block), ids, key, cond)

    return _in_blocks(one, images, cond, batch)

  return fn


def difference(
  first: Float[np.ndarray, "_ _"],
  second: Float[np.ndarray, "_ _"],
  dimensions: int,
) -> Float[np.ndarray, " _"]:
  """M(D; first) - M(D; second), each image's part, in bits a dimension.

  The mean over images is the difference; intervals resample images.
  """
  if first.shape != second.shape:
    raise ValueError(
      f"densities of {first.shape} and {second.shape} values: give those of "
      "the same images and draws"
    )
  return (second - first).mean(1) / dimensions / np.log(2.0)


def _in_blocks(
  function: Callable,
  images: UInt8[AnyArray, "n h w c"],
  cond: Any,
  batch: int,
) -> Float[np.ndarray, " n"]:
  """Blocks of one shape; the last is padded with images counted once."""
  n = len(images)
  batch = min(batch, n)
  found = []
  for start in range(0, n, batch):
    rows = np.minimum(np.arange(start, start + batch), n - 1)
    part = None if cond is None else jnp.asarray(cond[rows])
    block = function(jnp.asarray(images[rows]), rows.astype(np.int32), part)
    found.append(np.asarray(block, np.float64)[: n - start])
  return np.concatenate(found)

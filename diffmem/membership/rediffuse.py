# SPDX-License-Identifier: Apache-2.0
"""ReDiffuse: variations of a member average to the member. Black-box.

  xbar    = mean over r = 1 .. repeats of V(x, t, r)
  score_t = -sum over pixels of |x - xbar|^norm,  norm = 2

V is any call that varies an image (`black_box`). A denoiser has one: noise x
to time t, and go back in ddim hops of `interval`, t, t - k, ..., 0, the last
one shorter where t is no multiple of k; index 0 counts as the image, and
nothing is clipped. For a model of latents the distance is between images.
Draw r at time t is the same for every image.

Li et al., "Towards Black-Box Membership Inference Attack for Diffusion
Models", ICML 2025, arXiv:2405.20771 (t = 200, interval 100).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import mesh
from diffmem.arrays import AnyArray, Float
from diffmem.denoiser import Denoiser
from diffmem.diffusion import process
from diffmem.membership import signals
from diffmem.membership.protocol import Attack
from diffmem.membership.queries import Queries, noise_key

Images = Float[AnyArray, "b h w c"]
# (images [b h w c] in [-1, 1], t, key) -> images [b h w c]
Variation = Callable[..., Images]


@jax.jit
def _added(x: Images, y: Images) -> Float[jax.Array, "b h w c"]:
  return jnp.add(x, y)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _distance(
  images: Images, total: Images, repeats: int, norm: int | float
) -> Float[jax.Array, " b"]:
  gap = jnp.abs(images - total / repeats)
  return jnp.sum(gap**norm, axis=(1, 2, 3))


def _noised(denoiser, params, x0, t, eps):
  del params
  t = jnp.full(len(x0), t, jnp.int32)
  eps = jnp.broadcast_to(eps[None], x0.shape)
  return process.add_noise(x0, eps, t, denoiser.schedule.alpha_bar)


def _back(queries, x0, t, eps, cond, interval):
  """A variation of x0, as the network sees it."""
  x = queries.call(_noised, x0, queries.number(t), eps)
  while t > 0:
    x, t = queries.hop(x, t, max(t - interval, 0), cond), max(t - interval, 0)
  return x


def _block(queries, images, cond, *, t, interval, repeats, norm, seed):
  x0, found = queries.encode(images), []
  for s in t:
    total = None
    for r in range(repeats):
      eps = queries.noise(seed, s, r)
      made = queries.decode(_back(queries, x0, s, eps, cond, interval))
      total = made if total is None else _added(total, made)
    found.append(_distance(images, total, repeats, norm))
  return found


def _shape(denoiser, *, t, interval, repeats, norm, seed):
  signals.at_least_one(interval=interval, repeats=repeats)
  if not norm > 0:
    raise ValueError(f"norm = {norm}, expected a positive power")
  if denoiser.encode is not None:
    denoiser.require("decode", by="rediffuse")
  return (len(t),)


SIGNAL = signals.Signal("variations", _block, _shape)


def scores(distances: Float[np.ndarray, "n t"]) -> Float[np.ndarray, "n t"]:
  """Scores from the distances; higher means member."""
  return -distances.astype(np.float64)


def variation(
  denoiser: Denoiser, *, interval: int = 50, cond: AnyArray | None = None
) -> Variation:
  """The variation call of a denoiser; `cond` is a condition for each image."""
  queries = Queries(denoiser, mesh.local_mesh(1))

  def vary(images: Images, t: int, key: jax.Array) -> Images:
    eps = jax.random.normal(key, tuple(denoiser.shape))
    x0 = queries.encode(jnp.asarray(images))
    return queries.decode(_back(queries, x0, t, eps, cond, interval))

  return vary


def black_box(
  vary: Variation,
  images: AnyArray,
  *,
  t: int = 100,
  repeats: int = 10,
  norm: int | float = 2,
  seed: int = 0,
  batch: int = 512,
) -> Float[np.ndarray, " n"]:
  """Scores of images [n h w c] from a variation call alone.

  Args:
    vary: vary(images [b h w c] in [-1, 1], t, key) -> images. What t means is
      its own business; the same key is given for every block of images.
    images: uint8, or floats in [-1, 1].
    t: how far it shall vary them.
    repeats: variations of each image.
    norm: the power of a pixel's error.
    seed: of the keys.
    batch: images in a call.

  Raises:
    ValueError: images that cannot be, or variations of another shape.
    FloatingPointError: a score is not finite; names the images.
  """
  signals.at_least_one(repeats=repeats, batch=batch)
  if images.ndim != 4 or not len(images):
    raise ValueError(f"images have shape {tuple(images.shape)}: give [n h w c]")
  signals.check_range(images)
  found = np.empty(len(images), np.float64)
  for start in range(0, len(images), batch):
    block = signals.floats(images[start : start + batch])
    total = np.zeros(block.shape, np.float64)
    for r in range(repeats):
      made = np.asarray(vary(block, t, noise_key(seed, t, r)))
      if made.shape != block.shape:
        raise ValueError(
          f"a variation of images {tuple(block.shape)} has shape {made.shape}"
        )
      total += made
    gap = np.abs(np.asarray(block) - total / repeats) ** norm
    found[start : start + batch] = gap.sum((1, 2, 3))
  bad = np.flatnonzero(~np.isfinite(found))
  if len(bad):
    raise FloatingPointError(
      f"not finite: variations of {len(bad)} images, the first is {bad[0]}"
    )
  return -found


ATTACK = Attack(
  name="rediffuse",
  source="Li et al. 2025",
  signal=SIGNAL,
  scores=scores,
  defaults={"interval": 50, "repeats": 10, "norm": 2, "seed": 0},
  queries=lambda *, t, interval, repeats, **_: (
    repeats * sum(-(-s // interval) for s in t)
  ),
)

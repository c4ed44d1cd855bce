# SPDX-License-Identifier: Apache-2.0
"""A captioned set in closed form: every caption keeps its images.

The data are n images y_i with captions k_i; a caption is a tree of arrays,
flattened to a vector c_k. A condition e tells the caption through noise of a
given spread, or it is the null condition c_0 and tells nothing:

  pi_k(e) = softmax_k( -|e - c_k|^2 / (2 spread^2) ),  k = 0 .. captions
  P(y_i | e) = pi_0 / n + pi_{k_i} / n_{k_i}

and eps follows as in `oracles.finite_set`, of which this is the weighted form.
Near a caption the model draws its images alone, near the null condition any
of them; in between eps is smooth in e, so that what optimizes or perturbs an
embedding can be tried on it. A caption of one image is memorized for certain;
one of many images says little of each.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float, Int
from diffmem.denoiser import oracles
from diffmem.denoiser.protocol import Denoiser
from diffmem.diffusion.schedules import Schedule

SHARE = 0.05  # of the distance between the two closest captions


def captioned_set(
  images: AnyArray,
  caption_ids: Int[AnyArray, " n"],
  captions: Any,
  schedule: Schedule,
  *,
  spread: float | None = None,
) -> Denoiser:
  """The optimal denoiser of n captioned images.

  Args:
    images: [n h w c], float in [-1, 1].
    caption_ids: the caption of each, 0 .. captions - 1, all of them in use.
    captions: a tree of arrays [captions ...], such as {"tokens": [k l e],
      "mask": bool [k l]}; tokens count where the mask is true.
    schedule: the noise levels.
    spread: of the noise in a condition, in the captions' unit; None for 5% of
      the distance between the two closest captions.

  Returns:
    A denoiser that takes such trees; its null condition is zeros and False.

  Raises:
    ValueError: images out of range, a caption without images, two alike.
  """
  oracles.check_images(images)
  ids = np.asarray(caption_ids)
  captions = jax.tree.map(np.asarray, captions)
  known = np.asarray(flat(captions))
  if ids.shape != (len(images),):
    raise ValueError(
      f"caption_ids has shape {ids.shape} for {len(images)} images: give one "
      "for each"
    )
  if not np.array_equal(np.unique(ids), np.arange(len(known))):
    raise ValueError(
      f"captions 0 .. {len(known) - 1} must each have an image; caption_ids "
      f"name {len(np.unique(ids))} of them"
    )
  null = jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), captions)
  points = np.concatenate([np.zeros((1, known.shape[1]), np.float32), known])
  if spread is None:
    spread = SHARE * _closest(points)
  counts = np.bincount(ids)
  params = oracles.set_params(images) | {
    "captions": jnp.asarray(points),
    "caption_ids": jnp.asarray(ids, jnp.int32),
    "log_shares": -jnp.log(jnp.asarray(counts[ids], jnp.float32)),
  }

  def apply(params, x_t, t, cond=None):
    log_prior = None
    if cond is not None:
      log_prior = _log_prior(params, flat(cond), spread)
    return oracles.set_eps(params, x_t, t, log_prior, schedule)

  return Denoiser(
    schedule=schedule,
    shape=tuple(images.shape[1:]),
    params=params,
    apply=apply,
    null_cond=null,
  )


def flat(cond: Any) -> Float[jax.Array, "b d"]:
  """Conditions as vectors; tokens outside the mask are zeros."""
  if isinstance(cond, dict) and {"tokens", "mask"} <= set(cond):
    mask = jnp.asarray(cond["mask"], jnp.float32)
    tokens = jnp.asarray(cond["tokens"], jnp.float32) * mask[..., None]
    cond = {**cond, "tokens": tokens, "mask": mask}
  leaves = [jnp.asarray(x, jnp.float32) for x in jax.tree.leaves(cond)]
  return jnp.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)


def _log_prior(
  params: Any, e: Float[AnyArray, "b d"], spread: float
) -> Float[jax.Array, "b n"]:
  gap = e[:, None] - params["captions"][None]
  told = jax.nn.log_softmax(-(gap**2).sum(-1) / (2 * spread**2), axis=-1)
  own = told[:, 1:][:, params["caption_ids"]] + params["log_shares"][None]
  n = len(params["caption_ids"])
  return jnp.logaddexp(own, told[:, :1] - jnp.log(float(n)))


def _closest(points: Float[np.ndarray, "k d"]) -> float:
  gap = ((points[:, None] - points[None]) ** 2).sum(-1)
  gap[np.diag_indices(len(gap))] = np.inf
  if not gap.min() > 0:
    i, j = np.unravel_index(gap.argmin(), gap.shape)
    raise ValueError(
      f"conditions {i - 1} and {j - 1} are alike (-1 is the null condition): "
      "captions must differ from each other and from zeros"
    )
  return float(np.sqrt(gap.min()))

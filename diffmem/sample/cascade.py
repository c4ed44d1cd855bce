# SPDX-License-Identifier: Apache-2.0
"""A cascade: noise to a small image, and on to larger ones.

  x^0     = chain_0(id, c)                             the base
  low     = clip(x^{i-1}, -1, 1)
  low_u   = sqrt(ab_u) low + sqrt(1 - ab_u) z          augmentation at level u
  x^i     = chain_i(id, c, low_u, u)                   super-resolution i

(Ho et al. 2022, arXiv:2106.15282; Saharia et al. 2022, arXiv:2205.11487). As
every chain, the cascade is a function of (weights, key, id): stage i draws
from stream(key, "upsampler", i - 1), z of id from its stream "low".
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffmem import keys
from diffmem.arrays import AnyArray, Float, Int, Key
from diffmem.denoiser.protocol import Denoiser
from diffmem.diffusion import augmentation
from diffmem.sample import chain


@dataclasses.dataclass(frozen=True)
class Upsampler:
  """A super-resolution stage: its denoiser, its chain, its level of noise.

  Raises:
    ValueError: the denoiser enlarges nothing, or its schedule lacks the level.
  """

  denoiser: Denoiser
  sampler: chain.Sampler
  level: int

  def __post_init__(self):
    self.denoiser.require("low", by="super-resolution")
    self.denoiser.schedule.check(self.level)


def cascade(
  base: Denoiser, sampler: chain.Sampler, upsamplers: Sequence[Upsampler]
) -> chain.Sampler:
  """fn(params, ids int [b], key, cond=None) -> images float32 [b h w c].

  Args:
    base: the denoiser of the first stage.
    sampler: its chain, see `chain.chain`.
    upsamplers: the stages that enlarge, in order.

  Returns:
    fn; params has one tree a stage, the base's first. cond is the base's; the
    tokens and mask of captions are given to the stages that take them.

  Raises:
    ValueError: a stage does not take the images of the one before it, or
      captions that the base has not.
  """
  shape = tuple(base.shape)
  for i, stage in enumerate(upsamplers):
    if stage.denoiser.low != shape:
      raise ValueError(
        f"upsampler {i} enlarges images of {stage.denoiser.low}, the stage "
        f"before it makes {shape}"
      )
    if _reads(stage) and not isinstance(base.null_cond, dict):
      raise ValueError(f"upsampler {i} takes captions, the base has none")
    shape = tuple(stage.denoiser.shape)

  def sample(params, ids, key, cond=None):
    x = sampler(params[0], ids, key, cond)
    for i, stage in enumerate(upsamplers):
      own = keys.stream(key, "upsampler", i)
      beside = noised(stage, x, ids, own)
      if _reads(stage):
        beside = {**(cond or {}), **beside}
      x = stage.sampler(params[i + 1], ids, own, beside)
    return x

  return sample


def noised(
  stage: Upsampler,
  x: Float[AnyArray, "b y x c"],
  ids: Int[AnyArray, " b"],
  key: Key[jax.Array, ""],
) -> dict[str, Any]:
  """What a stage is given of the images before it: low and level."""
  eps = jax.vmap(
    lambda k: jax.random.normal(keys.stream(k, "low"), x.shape[1:])
  )(keys.per_id(key, ids))
  return augmentation.augment(
    jnp.clip(x, -1.0, 1.0),
    eps,
    jnp.full(len(x), stage.level, jnp.int32),
    stage.denoiser.schedule.alpha_bar,
  )


def _reads(stage: Upsampler) -> bool:
  """Whether the stage takes captions."""
  return isinstance(stage.denoiser.null_cond, dict)

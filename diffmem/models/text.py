# SPDX-License-Identifier: Apache-2.0
"""How a denoiser sees a caption: cross-attention, and one pooled vector.

A caption is l tokens of e numbers, and a mask that says which count. Each is
normalised (layer normalisation, as in Saharia et al. 2022, arXiv:2205.11487);
then the caption enters twice:

  pooled           dense(silu(dense(norm(mean of the tokens that count)))),
                   added to the embedding of t
  cross-attention  softmax(q k^T / sqrt(d)) v, q from the pixels; k and v from
                   a linear map of the tokens that count, to `context` numbers
                   each, and from one learned pair (k0, v0)

Where no token counts, the null condition of classifier-free guidance, the
pooled vector is a learned one, and only (k0, v0) is left to attend to: what
stands in the tokens then changes nothing.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from diffmem.arrays import Bool, Float
from diffmem.models import layers


class TextEmbedding(nnx.Module):
  """Tokens and mask -> (context [b l k], pooled vector [b o])."""

  def __init__(
    self, features: int, context: int, outputs: int, *, draws: layers.Draws
  ):
    self.tokens = layers.LayerNorm(features)
    self.context = layers.Dense(features, context, draws=draws)
    self.pooled = layers.LayerNorm(features)
    self.first = layers.Dense(features, outputs, draws=draws)
    self.second = layers.Dense(outputs, outputs, draws=draws)
    self.null = nnx.Param(draws.uniform((outputs,), 1.0))

  def __call__(
    self,
    tokens: Float[Array, "b l e"],
    mask: Bool[Array, "b l"],
    dtype: jnp.dtype,
  ) -> tuple[Float[Array, "b l k"], Float[Array, "b o"]]:
    b, length, e = tokens.shape
    normed = self.tokens(tokens.reshape(b * length, e)).reshape(tokens.shape)
    normed = jnp.where(mask[:, :, None], normed, 0.0)
    count = mask.sum(axis=1, keepdims=True)
    mean = self.pooled(normed.sum(axis=1) / jnp.maximum(count, 1))
    y = self.second(layers.silu(self.first(mean.astype(dtype))))
    null = self.null[...].astype(dtype)[None, :]
    context = self.context(normed.astype(dtype))
    return context, jnp.where(count > 0, y, null)


class CrossAttention(nnx.Module):
  """x + attention of each pixel to the tokens of its caption."""

  def __init__(
    self,
    channels: int,
    context: int,
    *,
    heads: int,
    groups: int,
    draws: layers.Draws,
  ):
    self.heads = heads
    self.norm = layers.GroupNorm(channels, groups)
    self.q = layers.Dense(channels, channels, draws=draws)
    self.kv = layers.Dense(context, 2 * channels, draws=draws)
    self.null = nnx.Param(draws.uniform((1, 2 * channels), 1.0))
    self.out = layers.Dense(channels, channels, zero=True, draws=draws)

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    context: Float[Array, "b l k"],
    mask: Bool[Array, "b l"],
  ) -> Float[Array, "b h w c"]:
    b, h, w, c = x.shape
    pixels = self.norm(x).reshape(b, h * w, c)
    q = self.q(pixels).reshape(b, h * w, self.heads, -1)
    null = jnp.broadcast_to(
      self.null[...].astype(x.dtype)[None, :, :], (b, 1, 2 * c)
    )
    pairs = jnp.concatenate([null, self.kv(context)], axis=1)
    k, v = jnp.moveaxis(pairs.reshape(b, -1, 2, self.heads, c // self.heads),
                        2, 0)  # fmt: skip
    seen = jnp.concatenate([jnp.ones((b, 1), bool), mask], axis=1)
    y = jax.nn.dot_product_attention(q, k, v, mask=seen[:, None, None, :])
    return x + self.out(y.reshape(b, h * w, c)).reshape(x.shape)

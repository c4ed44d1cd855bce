# SPDX-License-Identifier: Apache-2.0
"""The denoising U-Net of DDPM and of improved DDPM.

Ho et al. 2020, arXiv:2006.11239; Nichol and Dhariwal 2021, arXiv:2102.09672.

  down:   at each level `blocks` residual blocks, each followed by attention
          where the resolution is listed; then a strided convolution halves it
  middle: block, attention, block (or block, dense, block)
  up:     `blocks` + 1 blocks a level, each given one activation of the way
          down beside its input; then nearest up-sampling and a convolution
  out:    norm, SiLU, a convolution that starts as zero

A residual block is x + conv(silu(norm(conv(silu(norm(x))) + e))), where e is
a linear map of the embedding of t and class; with `scale_shift` the second
norm's output is multiplied by 1 + s and shifted by b instead, (s, b) linear
in the embedding.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax import Array

from diffmem.arrays import Float, Int, Key
from diffmem.models import layers


class Block(nnx.Module):
  """A residual block from `inputs` to `outputs` channels."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    *,
    embedding: int,
    dropout: float,
    scale_shift: bool,
    groups: int,
    conventions: layers.Conventions,
    draws: layers.Draws,
  ):
    self.dropout = dropout
    self.scale_shift = scale_shift
    self.norm1 = layers.GroupNorm(inputs, groups, conventions)
    self.conv1 = layers.Conv(inputs, outputs, draws=draws)
    self.embed = layers.Dense(
      embedding, (1 + scale_shift) * outputs, draws=draws
    )
    self.norm2 = layers.GroupNorm(outputs, groups, conventions)
    self.conv2 = layers.Conv(outputs, outputs, zero=True, draws=draws)
    self.skip = (
      None
      if inputs == outputs
      else layers.Conv(inputs, outputs, size=1, draws=draws)
    )

  def __call__(
    self,
    x: Float[Array, "b h w i"],
    embedding: Float[Array, "b e"],
    key: Key[Array, ""] | None,
  ) -> Float[Array, "b h w o"]:
    y = self.conv1(self.norm1(x, activate=True))
    e = self.embed(layers.silu(embedding))
    if self.scale_shift:
      scale, shift = jnp.split(e, 2, axis=-1)
      y = self.norm2(y, modulation=(scale, shift), activate=True)
    else:
      y = self.norm2(y + e[:, None, None, :], activate=True)
    y = layers.dropout(y, self.dropout, key)
    return (x if self.skip is None else self.skip(x)) + self.conv2(y)


class DenseMiddle(nnx.Module):
  """x + a two-layer perceptron on all pixels and channels of a tiny image."""

  def __init__(
    self,
    size: tuple[int, int],
    channels: int,
    groups: int,
    *,
    conventions: layers.Conventions,
    draws: layers.Draws,
  ):
    features = size[0] * size[1] * channels
    self.norm = layers.GroupNorm(channels, groups, conventions)
    self.first = layers.Dense(features, features, draws=draws)
    self.second = layers.Dense(features, features, zero=True, draws=draws)

  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    y = layers.silu(self.first(self.norm(x).reshape(x.shape[0], -1)))
    return x + self.second(y).reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class Parts:
  """Makes the parts of one network from its knobs."""

  embedding: int
  dropout: float
  scale_shift: bool
  heads: int
  groups: int
  conventions: layers.Conventions
  draws: layers.Draws

  def block(self, inputs: int, outputs: int) -> Block:
    """A residual block."""
    return Block(
      inputs, outputs, embedding=self.embedding, dropout=self.dropout,
      scale_shift=self.scale_shift, groups=self.groups,
      conventions=self.conventions, draws=self.draws,
    )  # fmt: skip

  def attention(self, channels: int) -> layers.Attention:
    """Attention over the pixels of a level."""
    return layers.Attention(
      channels, heads=self.heads, groups=self.groups,
      conventions=self.conventions, draws=self.draws,
    )  # fmt: skip

  def stage(
    self, name: str, inputs: int, outputs: int, attend: bool
  ) -> dict[str, nnx.Module]:
    """A residual block, and attention after it where that is asked for."""
    parts: dict[str, nnx.Module] = {
      f"block_{name}": self.block(inputs, outputs)
    }
    if attend:
      parts[f"attention_{name}"] = self.attention(outputs)
    return parts

  def middle(
    self, kind: str, size: tuple[int, int], channels: int
  ) -> nnx.Module | None:
    """What stands between the two blocks of the middle."""
    if kind == "attention":
      return self.attention(channels)
    if kind == "dense":
      return DenseMiddle(
        size, channels, self.groups, conventions=self.conventions,
        draws=self.draws,
      )  # fmt: skip
    return None


class UNet(nnx.Module):
  """x [b h w c], t [b], cond [b] or None -> [b h w outputs] in float32.

  Knobs:
    width: channels at the first level.
    multipliers: channels of each level, as multiples of width.
    blocks: residual blocks a level.
    attention: heights of the levels that have attention, in pixels.
    heads: heads of each attention.
    middle: "attention", "dense" (for tiny images) or "plain".
    dropout: rate inside the residual blocks, used when a key is given.
    scale_shift: whether the embedding also scales (see the module's text).
    groups: of group normalisation, at most.
    time_scale: the embedding sees t * time_scale.
    conventions: "ho", details as in that paper's code, or "torch", as in most
      networks written in PyTorch; see layers.Conventions.
  """

  def __init__(
    self,
    shape: tuple[int, int, int],
    outputs: int,
    num_classes: int | None,
    dtype: str,
    draws: layers.Draws,
    *,
    width: int = 128,
    multipliers: Sequence[int] = (1, 2, 2, 2),
    blocks: int = 2,
    attention: Sequence[int] = (16,),
    heads: int = 1,
    middle: str = "attention",
    dropout: float = 0.0,
    scale_shift: bool = False,
    groups: int = 32,
    time_scale: float = 1.0,
    conventions: str = "ho",
  ):
    layers.check_sizes(width, blocks, dropout)
    check(shape, multipliers, attention, middle, heads, groups)
    details = layers.conventions(conventions)
    self.dtype = jnp.dtype(dtype)
    self.levels, self.blocks = len(multipliers), blocks
    parts = Parts(
      4 * width, dropout, scale_shift, heads, groups, details, draws
    )
    sizes = [shape[0] >> level for level in range(self.levels)]
    self.embed = layers.Embedding(
      width, 4 * width, num_classes=num_classes, time_scale=time_scale,
      conventions=details, draws=draws,
    )  # fmt: skip
    self.stem = layers.Conv(shape[2], width, draws=draws)
    c, skips, down, up = width, [width], {}, {}
    for level, o in enumerate(width * m for m in multipliers):
      for i in range(blocks):
        down |= parts.stage(f"{level}_{i}", c, o, sizes[level] in attention)
        c = o
        skips.append(c)
      if level + 1 < self.levels:
        down[f"halve_{level}"] = layers.Conv(
          c, c, stride=2, conventions=details, draws=draws
        )
        skips.append(c)
    self.down = nnx.Dict(down)
    self.middle_1 = parts.block(c, c)
    self.middle = parts.middle(middle, (sizes[-1], shape[1] >> level), c)
    self.middle_2 = parts.block(c, c)
    for level in reversed(range(self.levels)):
      o = width * multipliers[level]
      for i in range(blocks + 1):
        up |= parts.stage(
          f"{level}_{i}", c + skips.pop(), o, sizes[level] in attention
        )
        c = o
      if level:
        up[f"double_{level}"] = layers.Conv(c, c, draws=draws)
    self.up = nnx.Dict(up)
    self.norm = layers.GroupNorm(c, groups, details)
    self.out = layers.Conv(c, outputs, zero=True, draws=draws)

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    cond: Int[Array, " b"] | None,
    key: Key[Array, ""] | None,
  ) -> Float[Array, "b h w o"]:
    e = self.embed(t, cond, self.dtype)
    keys = layers.key_sequence(key)
    x = self.stem(x.astype(self.dtype))
    skips = [x]
    for level in range(self.levels):
      for i in range(self.blocks):
        x = self.down[f"block_{level}_{i}"](x, e, next(keys))
        if f"attention_{level}_{i}" in self.down:
          x = self.down[f"attention_{level}_{i}"](x)
        skips.append(x)
      if level + 1 < self.levels:
        x = self.down[f"halve_{level}"](x)
        skips.append(x)
    x = self.middle_1(x, e, next(keys))
    x = x if self.middle is None else self.middle(x)
    x = self.middle_2(x, e, next(keys))
    for level in reversed(range(self.levels)):
      for i in range(self.blocks + 1):
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = self.up[f"block_{level}_{i}"](x, e, next(keys))
        if f"attention_{level}_{i}" in self.up:
          x = self.up[f"attention_{level}_{i}"](x)
      if level:
        x = self.up[f"double_{level}"](layers.double(x))
    x = self.out(self.norm(x, activate=True))
    return x.astype(jnp.float32)


def check(
  shape: tuple[int, int, int],
  multipliers: Sequence[int],
  attention: Sequence[int],
  middle: str,
  heads: int,
  groups: int,
) -> None:
  """ValueError where the knobs do not fit each other or the images."""
  least = min(*multipliers, heads, groups) if multipliers else 0
  if least < 1:
    raise ValueError(
      f"multipliers={tuple(multipliers)}, heads={heads}, groups={groups}; "
      "expected at least one multiplier, and all to be 1 or more"
    )
  factor = 2 ** (len(multipliers) - 1)
  if shape[0] % factor or shape[1] % factor:
    raise ValueError(
      f"images of {shape[0]}x{shape[1]} cannot be halved "
      f"{len(multipliers) - 1} times (sides must be multiples of {factor}): "
      "use fewer multipliers, or crop or resize the images"
    )
  sizes = [shape[0] >> level for level in range(len(multipliers))]
  unknown = [size for size in attention if size not in sizes]
  if unknown:
    raise ValueError(
      f"attention at height {unknown[0]}, but the levels of this network "
      f"have heights {sizes}"
    )
  if middle not in ("attention", "dense", "plain"):
    raise ValueError(
      f"middle={middle!r}; expected one of 'attention', 'dense', 'plain'"
    )

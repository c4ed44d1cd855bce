# SPDX-License-Identifier: Apache-2.0
"""The efficient U-Net of Imagen, for the base and for super-resolution.

Saharia et al. 2022, arXiv:2205.11487, section 2.4 and appendices B and F; the
cascade is that of Ho et al. 2022, arXiv:2106.15282.

  down:   at each level a convolution that halves the image *before* the
          blocks (not at the first level of a base), `blocks` residual blocks,
          more of them where the image is small, each followed by
          self-attention and by attention to the text where these are listed
  middle: block, attention, block, of a base; without it where `middle` is off
  up:     the levels in reverse; what the way down made is put beside the
          input; up-sampling and its convolution come *after* the blocks
  out:    norm, SiLU, a convolution that starts as zero

A residual block is (x + conv(silu(m(norm(conv(silu(norm(x)))))))) / sqrt(2),
with m(y) = y (1 + s) + b, (s, b) linear in the embedding; 1 / sqrt(2) keeps
the variance, as in Song et al. 2021 (arXiv:2011.13456). The embedding is the
sum of those of t, of the pooled caption (models.text) and of `level`.

Super-resolution: beside x [b h w c] the network sees, up-sampled to its size,
the low-resolution image that it has to enlarge, with noise of schedule index
`level` [b] added (noise conditioning augmentation: diffusion.augmentation).

The paper's text leaves open how many activations cross from the way down to
the way up: `skips` is "block", one for each residual block, as in the U-Nets
of Dhariwal and Nichol 2021 that the base follows, or "level", one a level, as
the figures of the efficient U-Net have it. It pools the text by attention; we
take the mean.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from diffmem.arrays import Float, Int, Key
from diffmem.models import layers, unet
from diffmem.models import text as texts

SKIPS = ("block", "level")


class Block(unet.Block):
  """A residual block with its sum divided by sqrt(2); its embedding scales."""

  def __call__(
    self,
    x: Float[Array, "b h w i"],
    embedding: Float[Array, "b e"],
    key: Key[Array, ""] | None,
  ) -> Float[Array, "b h w o"]:
    return super().__call__(x, embedding, key) * (0.5**0.5)


@dataclasses.dataclass(frozen=True)
class Parts:
  """Makes the parts of one network from its knobs."""

  embedding: int
  dropout: float
  head_channels: int
  groups: int
  attention: Sequence[int]
  cross: Sequence[int]
  context: int
  draws: layers.Draws

  def block(self, inputs: int, outputs: int) -> Block:
    """A residual block."""
    return Block(
      inputs, outputs, embedding=self.embedding, dropout=self.dropout,
      scale_shift=True, groups=self.groups, conventions=layers.HO,
      draws=self.draws,
    )  # fmt: skip

  def stage(
    self, name: str, inputs: int, outputs: int, height: int
  ) -> dict[str, nnx.Module]:
    """A residual block, and after it the attentions of that height."""
    made: dict[str, nnx.Module] = {f"block_{name}": self.block(inputs, outputs)}
    heads = max(outputs // self.head_channels, 1)
    if height in self.attention:
      made[f"attention_{name}"] = layers.Attention(
        outputs, heads=heads, groups=self.groups, draws=self.draws
      )
    if height in self.cross:
      made[f"cross_{name}"] = texts.CrossAttention(
        outputs, self.context, heads=heads, groups=self.groups,
        draws=self.draws,
      )  # fmt: skip
    return made

  def conv(self, inputs: int, outputs: int, stride: int = 1) -> layers.Conv:
    """A 3 x 3 convolution."""
    return layers.Conv(inputs, outputs, stride=stride, draws=self.draws)


class Imagen(nnx.Module):
  """x [b h w c], t [b], cond -> [b h w outputs] in float32.

  cond is None without `text` and `low`, else a dict: "tokens" [b l e] and
  "mask" [b l] of the captions, "low" [b h' w' c] and "level" int [b].

  Knobs:
    text: (l, e), tokens of a caption and numbers of a token; None: no text.
    low: height of the image to enlarge; None: a base.
    width: channels at the first level.
    multipliers: channels of each level, as multiples of width.
    blocks: residual blocks of each level.
    halve_first: whether the first level halves the image too, as in
      super-resolution.
    attention: heights of the levels that have self-attention, in pixels.
    cross: heights of the levels that attend to the text.
    context: numbers of a token in the attention to the text.
    head_channels: channels of an attention head.
    skips: "block" or "level"; see the module's text.
    middle: whether two blocks stand between the ways down and up.
    dropout: rate inside the residual blocks, used when a key is given.
    groups: of group normalisation, at most.
    time_scale: the embeddings see t * time_scale and level * time_scale.
  """

  def __init__(
    self,
    shape: tuple[int, int, int],
    outputs: int,
    num_classes: int | None,
    dtype: str,
    draws: layers.Draws,
    *,
    text: Sequence[int] | None = None,
    low: int | None = None,
    width: int = 128,
    multipliers: Sequence[int] = (1, 2, 4, 8),
    blocks: Sequence[int] = (2, 4, 8, 8),
    halve_first: bool = False,
    attention: Sequence[int] = (),
    cross: Sequence[int] = (),
    context: int = 512,
    head_channels: int = 64,
    skips: str = "level",
    middle: bool = True,
    dropout: float = 0.0,
    groups: int = 32,
    time_scale: float = 1.0,
  ):
    heights = check(
      shape, multipliers, blocks, halve_first, attention, cross, text, low
    )
    check_knobs(
      num_classes, width, blocks, dropout, groups, skips, context,
      head_channels, [width * m for m in multipliers],
    )  # fmt: skip
    self.dtype, self.blocks, self.skips = jnp.dtype(dtype), tuple(blocks), skips
    self.halved = [bool(level or halve_first) for level in range(len(blocks))]
    embedding = 4 * width
    parts = Parts(
      embedding, dropout, head_channels, groups, attention, cross, context,
      draws,
    )  # fmt: skip
    channels = [width * m for m in multipliers]

    def embed():
      return layers.Embedding(
        width, embedding, num_classes=None, time_scale=time_scale, draws=draws
      )

    self.embed = embed()
    self.embed_level = None if low is None else embed()
    self.embed_text = (
      texts.TextEmbedding(text[1], context, embedding, draws=draws)
      if text
      else None
    )
    self.stem = parts.conv(shape[2] * (1 if low is None else 2), width)
    self.down, kept = self._way_down(parts, width, channels, heights)
    c, height = channels[-1], heights[-1]
    between: dict[str, nnx.Module] = {}
    if middle:
      attends = height if height in (*attention, *cross) else 0
      between = parts.stage("1", c, c, attends) | parts.stage("2", c, c, 0)
    self.middle = nnx.Dict(between)
    self.up = nnx.Dict(self._way_up(parts, width, channels, heights, kept))
    last = width if halve_first else channels[0]
    self.norm = layers.GroupNorm(last, groups)
    self.out = layers.Conv(last, outputs, zero=True, draws=draws)

  def _way_down(self, parts, c, channels, heights):
    """Its modules, and the channels of what crosses to the way up."""
    made: dict[str, nnx.Module] = {}
    kept: list[list[int]] = []
    for level, o in enumerate(channels):
      if self.halved[level]:
        made[f"halve_{level}"] = parts.conv(c, o, stride=2)
        c = o
      for i in range(self.blocks[level]):
        made |= parts.stage(f"{level}_{i}", c, o, heights[level])
        c = o
      kept.append([o] * (self.blocks[level] if self.skips == "block" else 1))
    return nnx.Dict(made), kept

  def _way_up(self, parts, width, channels, heights, kept):
    made: dict[str, nnx.Module] = {}
    c = channels[-1]
    for level in reversed(range(len(channels))):
      o = channels[level]
      for i in range(self.blocks[level]):
        beside = kept[level].pop() if kept[level] else 0
        made |= parts.stage(f"{level}_{i}", c + beside, o, heights[level])
        c = o
      lower = channels[level - 1] if level else width
      if self.halved[level]:
        made[f"double_{level}"] = parts.conv(c, lower)
        c = lower
    return made

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    cond: Mapping[str, Any] | None,
    key: Key[Array, ""] | None,
  ) -> Float[Array, "b h w o"]:
    keys = layers.key_sequence(key)
    e = self.embed(t, None, self.dtype)
    words = None
    if self.embed_text is not None:
      assert cond is not None
      mask = cond["mask"]
      tokens, pooled = self.embed_text(cond["tokens"], mask, self.dtype)
      words, e = (tokens, mask), e + pooled
    if self.embed_level is not None:
      assert cond is not None
      e = e + self.embed_level(cond["level"], None, self.dtype)
      x = jnp.concatenate([x, enlarged(cond["low"], x.shape)], axis=-1)
    x = self.stem(x.astype(self.dtype))
    kept = []
    for level, count in enumerate(self.blocks):
      if self.halved[level]:
        x = self.down[f"halve_{level}"](x)
      for i in range(count):
        x = _stage(self.down, f"{level}_{i}", x, e, words, next(keys))
        if self.skips == "block" or i + 1 == count:
          kept.append(x)
    for name in ("1", "2") if self.middle else ():
      x = _stage(self.middle, name, x, e, words, next(keys))
    for level, count in reversed(list(enumerate(self.blocks))):
      for i in range(count):
        if self.skips == "block" or i == 0:
          x = jnp.concatenate([x, kept.pop()], axis=-1)
        x = _stage(self.up, f"{level}_{i}", x, e, words, next(keys))
      if self.halved[level]:
        x = self.up[f"double_{level}"](layers.double(x))
    return self.out(self.norm(x, activate=True)).astype(jnp.float32)


def _stage(modules, name, x, e, words, key):
  x = modules[f"block_{name}"](x, e, key)
  if f"attention_{name}" in modules:
    x = modules[f"attention_{name}"](x)
  if f"cross_{name}" in modules:
    x = modules[f"cross_{name}"](x, *words)
  return x


def enlarged(
  low: Float[Array, "b y x c"], shape: tuple[int, ...]
) -> Float[Array, "b h w c"]:
  """The low-resolution image at the size of `shape`, bilinear."""
  return jax.image.resize(low, shape, "bilinear")


def check(
  shape: tuple[int, int, int],
  multipliers: Sequence[int],
  blocks: Sequence[int],
  halve_first: bool,
  attention: Sequence[int],
  cross: Sequence[int],
  text: Sequence[int] | None,
  low: int | None,
) -> list[int]:
  """The heights of the levels; ValueError where the knobs do not fit."""
  levels = len(multipliers)
  if not levels or len(blocks) != levels or min(multipliers) < 1:
    raise ValueError(
      f"multipliers={tuple(multipliers)}, blocks={tuple(blocks)}: expected one "
      "of each for every level, multipliers 1 or more"
    )
  halvings = levels - 1 + halve_first
  factor = 2**halvings
  if shape[0] % factor or shape[1] % factor:
    raise ValueError(
      f"images of {shape[0]}x{shape[1]} cannot be halved {halvings} times "
      f"(sides must be multiples of {factor}): use fewer multipliers, or crop "
      "or resize the images"
    )
  heights = [shape[0] >> (level + halve_first) for level in range(levels)]
  for what, listed in (("attention", attention), ("cross", cross)):
    unknown = [height for height in listed if height not in heights]
    if unknown:
      raise ValueError(
        f"{what} at height {unknown[0]}, but the levels of this network have "
        f"heights {heights}"
      )
  if text is not None and (len(text) != 2 or min(text) < 1):
    raise ValueError(
      f"text={tuple(text)}: expected (tokens of a caption, numbers of a token)"
    )
  if cross and text is None:
    raise ValueError(
      f"cross={tuple(cross)}, but text=None: a network without text attends "
      "to none, set cross=()"
    )
  if low is not None and (
    not 1 <= low < shape[0] or shape[0] % low or shape[1] * low % shape[0]
  ):
    raise ValueError(
      f"low={low}: images of {shape[0]}x{shape[1]} are no whole multiple of "
      "that height"
    )
  return heights


def check_knobs(
  num_classes: int | None,
  width: int,
  blocks: Sequence[int],
  dropout: float,
  groups: int,
  skips: str,
  context: int,
  head_channels: int,
  channels: Sequence[int],
) -> None:
  """ValueError where a knob is out of its range."""
  if num_classes is not None:
    raise ValueError(
      f"num_classes={num_classes}: this network knows captions, not classes; "
      "set num_classes=None and text, or use name='unet'"
    )
  layers.check_sizes(width, min(blocks), dropout)
  for what, value in (("groups", groups), ("context", context)):
    if value < 1:
      raise ValueError(f"{what}={value}: expected 1 or more")
  for c in channels:
    if head_channels < 1 or (c > head_channels and c % head_channels):
      raise ValueError(
        f"head_channels={head_channels} does not divide the {c} channels of a "
        "level; choose a divisor"
      )
  if skips not in SKIPS:
    raise ValueError(f"skips={skips!r}; expected one of {', '.join(SKIPS)}")

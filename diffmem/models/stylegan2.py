# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), as StyleGAN2-ADA uses it.

  w = mapping(z, class)
  x = const;  at every level: styled convolutions of w (the first doubles the
  sides, but for the lowest level), image = up(image) + to_rgb(x, w)

The generator sums images ("skip"); the discriminator has at every level two
convolutions, the second halving, as residual branches or plain, then

  standard deviation over the batch, 3x3, dense, dense: a logit, or with classes
  the product with a mapped class, divided by the root of its length.

Channels at a side of s pixels: min(channel_max, channel_base / s). The bottom
grid is 4x4 where sides are powers of two; see `gan_layers.Grid`. Left out of
the published networks: mixed precision with its clamps at 256, and style
mixing, which the preset for CIFAR-10 does without.
"""

import math

import jax.numpy as jnp
from flax import nnx
from jax import Array

from diffmem.arrays import Float, Int, Key
from diffmem.models import layers
from diffmem.models.gan_layers import Grid, Stat, blur
from diffmem.models.stylegan2_layers import (
  Conv,
  Dense,
  Deviation,
  Mapping,
  Modulated,
  StyledConv,
  activate,
)

ARCHITECTURES = ("resnet", "orig")
W_RATE = 0.005  # a step's share of the average of w


class Generator(nnx.Module):
  """z [b latent], cond [b] or None -> images [b h w c].

  Images are cut to [-1, 1] in evaluation only: a gradient must see what lies
  outside.

  Knobs:
    style: length of w.
    mapping: dense layers of the mapping.
    channel_base, channel_max: min(channel_max, channel_base / side) channels.
    truncation: w is moved towards its average, w_avg + truncation (w - w_avg),
      in evaluation; 1 leaves it.
  """

  def __init__(
    self,
    shape: tuple[int, int, int],
    num_classes: int | None,
    latent: int,
    draws: layers.Draws,
    *,
    style: int = 512,
    mapping: int = 2,
    channel_base: int = 32768,
    channel_max: int = 512,
    truncation: float = 1.0,
  ):
    check_depth("mapping", mapping)
    self.grid, self.truncation = Grid.of(shape), truncation
    widths = channels(self.grid, channel_base, channel_max)
    self.mapping = Mapping(latent, num_classes, style, mapping, draws=draws)
    self.average = Stat(jnp.zeros(style, jnp.float32))
    self.const = nnx.Param(draws.normal((*self.grid.bottom, widths[0]), 1.0))
    parts = {}
    for level, width in enumerate(widths):
      sides = tuple(side * 2**level for side in self.grid.bottom)
      if level:
        parts[f"up_{level}"] = StyledConv(
          widths[level - 1], width, style, sides, up=True, draws=draws
        )
      parts[f"conv_{level}"] = StyledConv(
        width, width, style, sides, up=False, draws=draws
      )
      parts[f"image_{level}"] = ToImage(width, shape[2], style, draws=draws)
    self.parts = nnx.Dict(parts)

  def __call__(
    self,
    z: Float[Array, "b k"],
    cond: Int[Array, " b"] | None,
    key: Key[Array, ""] | None,
    train: bool,
  ) -> Float[Array, "b h w c"]:
    w = self.mapping(z, cond)
    if train:
      self.average.follow(w.mean(0), W_RATE)
    elif self.truncation != 1.0:
      average = self.average[...][None, :]
      w = average + self.truncation * (w - average)
    images = self.synthesize(w, key)
    return images if train else jnp.clip(images, -1.0, 1.0)

  def synthesize(
    self, w: Float[Array, "b s"], key: Key[Array, ""] | None
  ) -> Float[Array, "b h w c"]:
    """Images of styles."""
    keys, const = layers.key_sequence(key), self.const[...][None]
    x = jnp.broadcast_to(const, (len(w), *const.shape[1:]))
    x = self.parts["conv_0"](x, w, next(keys))
    image = self.parts["image_0"](x, w)
    for level in range(1, self.grid.doublings + 1):
      x = self.parts[f"up_{level}"](x, w, next(keys))
      x = self.parts[f"conv_{level}"](x, w, next(keys))
      image = blur(layers.double(image)) + self.parts[f"image_{level}"](x, w)
    return self.grid.crop(image)


class ToImage(nnx.Module):
  """A modulated 1x1 convolution to the channels of an image, and a bias."""

  def __init__(
    self, inputs: int, outputs: int, style: int, *, draws: layers.Draws
  ):
    self.conv = Modulated(
      inputs, outputs, style, size=1, demodulate=False, draws=draws
    )
    self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

  def __call__(
    self, x: Float[Array, "b h w i"], w: Float[Array, "b s"]
  ) -> Float[Array, "b h w c"]:
    return self.conv(x, w) + self.bias[...].reshape(1, 1, 1, -1)


class Discriminator(nnx.Module):
  """x [b h w c], cond [b] or None -> logits [b].

  Knobs:
    channel_base, channel_max: as in the generator.
    architecture: "resnet", or "orig" without residual branches.
    group: samples over which the standard deviation is taken.
    label_mapping: dense layers of the mapping of classes.
  """

  def __init__(
    self,
    shape: tuple[int, int, int],
    num_classes: int | None,
    latent: int,
    draws: layers.Draws,
    *,
    channel_base: int = 32768,
    channel_max: int = 512,
    architecture: str = "resnet",
    group: int = 4,
    label_mapping: int = 8,
  ):
    del latent
    if architecture not in ARCHITECTURES:
      raise ValueError(
        f"architecture={architecture!r}; expected one of "
        f"{', '.join(ARCHITECTURES)}"
      )
    if group < 1:
      raise ValueError(f"group={group}; expected 1 sample or more")
    check_depth("label_mapping", label_mapping)
    self.grid, self.residual = Grid.of(shape), architecture == "resnet"
    widths = channels(self.grid, channel_base, channel_max)
    self.first = Conv(shape[2], widths[-1], size=1, draws=draws)
    parts = {}
    for level in range(self.grid.doublings, 0, -1):
      i, o = widths[level], widths[level - 1]
      parts[f"conv_{level}"] = Conv(i, i, draws=draws)
      parts[f"down_{level}"] = Conv(i, o, down=True, draws=draws)
      if self.residual:
        parts[f"skip_{level}"] = Conv(
          i, o, size=1, down=True, bias=False, draws=draws
        )
    self.parts = nnx.Dict(parts)
    c, pixels = widths[0], self.grid.bottom[0] * self.grid.bottom[1]
    self.deviation = Deviation(group)
    self.last = Conv(c + 1, c, draws=draws)
    self.dense = Dense(c * pixels, c, draws=draws)
    self.out = Dense(c, c if num_classes else 1, draws=draws)
    self.labels = (
      Mapping(0, num_classes, c, label_mapping, draws=draws)
      if num_classes
      else None
    )

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    cond: Int[Array, " b"] | None,
    key: Key[Array, ""] | None,
    train: bool,
  ) -> Float[Array, " b"]:
    del key  # nothing is drawn
    x = activate(self.first(self.grid.pad(x)))
    for level in range(self.grid.doublings, 0, -1):
      y = activate(self.parts[f"conv_{level}"](x))
      y = activate(self.parts[f"down_{level}"](y))
      if self.residual:
        y = (y + self.parts[f"skip_{level}"](x)) * math.sqrt(0.5)
      x = y
    x = activate(self.last(self.deviation(x, train)))
    y = self.out(activate(self.dense(x.reshape(len(x), -1))))
    if self.labels is None:
      return y[:, 0]
    label = self.labels(None, cond)
    return (y * label).sum(1) / math.sqrt(y.shape[1])


def channels(grid: Grid, base: int, most: int) -> list[int]:
  """Channels of every level, the lowest first."""
  widths = [min(most, base // grid.side(i)) for i in range(grid.doublings + 1)]
  if min(widths) < 1:
    raise ValueError(
      f"channel_base={base}, channel_max={most} leave no channel at a side of "
      f"{grid.side(grid.doublings)}; choose a base of that or more"
    )
  return widths


def check_depth(name: str, depth: int) -> None:
  """ValueError for a mapping without layers."""
  if depth < 1:
    raise ValueError(f"{name}={depth}; expected 1 layer or more")

# SPDX-License-Identifier: Apache-2.0
"""Layers of StyleGAN2: equalized learning rates, modulated convolutions.

Parameters are all of unit variance and scaled where they are used (Karras et
al. 2018, arXiv:1710.10196, section 4.1), so that Adam moves every layer alike:

  y = x (g / sqrt(fan in)) W + g b,    W ~ N(0, 1 / g^2),

g the multiplier of the learning rate. A modulated convolution (Karras et al.
2020, arXiv:1912.04958, equations 1 to 3) of style s [inputs], kernel w[u i o]:

  y = conv(x, w') with w'[u i o] = s_i w[u i o] / sqrt(sum_{u i} (s_i w)^2 + e).

Scaling the inputs by s and the outputs by the square root is the same without
a kernel for each sample. Activations are leaky ReLU (0.2) times sqrt(2).
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from diffmem.arrays import Float, Int, Key
from diffmem.models import layers
from diffmem.models.convolution import convolve, plain
from diffmem.models.gan_layers import Stat, blur

EPSILON = 1e-8


def activate(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Leaky ReLU that keeps the second moment."""
  return math.sqrt(2.0) * jax.nn.leaky_relu(x, 0.2)


def unit_moment(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
  """Each row divided by the root of its mean square."""
  square = jnp.mean(jnp.square(x), axis=1, keepdims=True)
  return x * jax.lax.rsqrt(square + EPSILON)


class Dense(nnx.Module):
  """A dense layer of equalized learning rate."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    *,
    rate: float = 1.0,
    bias: float = 0.0,
    draws: layers.Draws,
  ):
    self.kernel = nnx.Param(draws.normal((inputs, outputs), 1.0 / rate))
    self.bias = nnx.Param(jnp.full(outputs, bias, jnp.float32))
    self.rate, self.scale = rate, rate / math.sqrt(inputs)

  def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
    return x @ (self.kernel[...] * self.scale) + (
      self.bias[...] * self.rate
    ).reshape(1, -1)


class Mapping(nnx.Module):
  """z and class -> w by dense layers at a hundredth of the learning rate.

  Without z (`latent` 0) it maps the class alone, as the discriminator does.
  """

  RATE = 0.01

  def __init__(
    self,
    latent: int,
    num_classes: int | None,
    width: int,
    depth: int,
    *,
    draws: layers.Draws,
  ):
    self.embed = Dense(num_classes, width, draws=draws) if num_classes else None
    sides = [latent + (width if num_classes else 0)] + [width] * depth
    self.depth = depth
    self.layers = nnx.Dict(
      {
        f"dense_{i}": Dense(sides[i], sides[i + 1], rate=self.RATE, draws=draws)
        for i in range(depth)
      }
    )

  def __call__(
    self, z: Float[Array, "b k"] | None, cond: Int[Array, " b"] | None
  ) -> Float[Array, "b w"]:
    parts = [] if z is None else [unit_moment(z)]
    if self.embed is not None and cond is not None:
      classes = len(self.embed.kernel[...])
      known = self.embed(jax.nn.one_hot(cond, classes))
      parts.append(unit_moment(known))
    x = jnp.concatenate(parts, axis=1)
    for i in range(self.depth):
      x = activate(self.layers[f"dense_{i}"](x))
    return x


class Conv(nnx.Module):
  """An equalized convolution; with `down` blurred, then of stride 2."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    *,
    size: int = 3,
    down: bool = False,
    bias: bool = True,
    draws: layers.Draws,
  ):
    self.down, self.scale = down, 1.0 / math.sqrt(size * size * inputs)
    self.kernel = nnx.Param(draws.normal((size, size, inputs, outputs), 1.0))
    self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None

  def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
    kernel = self.kernel[...] * self.scale
    size = kernel.shape[0]
    if self.down and size == 1:
      y = plain(_filtered(x, 1), kernel, (2, 2))
    elif self.down:
      y = plain(_filtered(x, 2), kernel, (2, 2))
    else:
      y = convolve(x, kernel, 1)
    return y if self.bias is None else y + self.bias[...].reshape(1, 1, 1, -1)


def _filtered(
  x: Float[Array, "b h w c"], zeros: int
) -> Float[Array, "b y x c"]:
  """[1, 3, 3, 1] / 8 along both sides, with `zeros` around them before."""
  width = [(0, 0), (zeros, zeros), (zeros, zeros), (0, 0)]
  for axis in (1, 2):
    ends = [(0, 0)] * 4
    ends[axis] = width[axis]
    y = jnp.pad(x, ends)
    n = y.shape[axis] - 3
    one, two, three, four = (
      jax.lax.slice_in_dim(y, i, i + n, axis=axis) for i in range(4)
    )
    x = 0.125 * (one + four) + 0.375 * (two + three)
  return x


class Modulated(nnx.Module):
  """A modulated convolution, and with `up` twice the sides before it.

  Up-sampling by [1, 3, 3, 1] comes before the convolution, which is the
  published order but for pixels at the border.
  """

  def __init__(
    self,
    inputs: int,
    outputs: int,
    style: int,
    *,
    size: int = 3,
    up: bool = False,
    demodulate: bool = True,
    draws: layers.Draws,
  ):
    self.up, self.demodulate = up, demodulate
    self.affine = Dense(style, inputs, bias=1.0, draws=draws)
    self.kernel = nnx.Param(draws.normal((size, size, inputs, outputs), 1.0))

  def __call__(
    self, x: Float[Array, "b h w i"], w: Float[Array, "b s"]
  ) -> Float[Array, "b y x o"]:
    kernel, style = self.kernel[...], self.affine(w)
    if not self.demodulate:  # the last layer is scaled as others are
      style = style / math.sqrt(math.prod(kernel.shape[:-1]))
    x = x * style[:, None, None, :]
    if self.up:
      x = blur(layers.double(x))
    y = convolve(x, kernel, 1)
    if self.demodulate:
      square = jnp.square(style) @ jnp.square(kernel).sum((0, 1))
      y = y * jax.lax.rsqrt(square + EPSILON)[:, None, None, :]
    return y


class StyledConv(nnx.Module):
  """Modulated convolution, noise of a learnt strength, bias, activation."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    style: int,
    sides: tuple[int, int],
    *,
    up: bool,
    draws: layers.Draws,
  ):
    self.conv = Modulated(inputs, outputs, style, up=up, draws=draws)
    self.strength = nnx.Param(jnp.zeros((), jnp.float32))
    self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
    self.noise = Stat(draws.normal(sides, 1.0))

  def __call__(
    self,
    x: Float[Array, "b h w i"],
    w: Float[Array, "b s"],
    key: Key[Array, ""] | None,
  ) -> Float[Array, "b y x o"]:
    y = self.conv(x, w)
    noise = self.noise[...][None]
    if key is not None:
      noise = jax.random.normal(key, (len(x), *noise.shape[1:]))
    y = y + noise[..., None] * self.strength[...].reshape(1, 1, 1, 1)
    return activate(y + self.bias[...].reshape(1, 1, 1, -1))


class Deviation(nnx.Module):
  """One more channel: how much samples differ (Karras et al. 2018, section 3).

  The standard deviation over groups of at most `group` samples of the batch,
  sample i being in group i mod (b / group), averaged over features and pixels.
  Its running average stands in for it in evaluation, so that what is said of
  an image does not depend on the images beside it.
  """

  RATE = 0.01

  def __init__(self, group: int):
    self.group = group
    self.mean = Stat(jnp.zeros((), jnp.float32))

  def __call__(
    self, x: Float[Array, "b h w c"], train: bool
  ) -> Float[Array, "b h w d"]:
    b, h, w, c = x.shape
    if train:
      size = layers.group_count(b, self.group)
      groups = x.reshape(size, b // size, h, w, c)
      var = groups.var(0)
      std = jnp.sqrt(var + EPSILON).mean((1, 2, 3))
      self.mean.follow(std.mean(), self.RATE)
      std = jnp.tile(std, size)
    else:
      std = jnp.broadcast_to(self.mean[...], (b,))
    std = jnp.broadcast_to(std[:, None, None, None], (b, h, w, 1))
    return jnp.concatenate([x, std], axis=-1)

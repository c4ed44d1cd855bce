# SPDX-License-Identifier: Apache-2.0
"""Layers of GANs: spectral and batch normalisation, sizes, up-sampling.

Spectral normalisation (Miyato et al. 2018, arXiv:1802.05957, algorithm 1)
divides a kernel, as the matrix W [inputs outputs], by its largest singular
value, which one step of the power iteration follows from update to update:

  v = W u / |W u|,  u' = W^T v / |W^T v|,  sigma = v^T W u',  W / sigma.

u is state; u and v are constants to the gradient.

Batch normalisation (Ioffe and Szegedy 2015), its scale and shift those of a
class or a vector where there is one (Dumoulin et al. 2017; de Vries et al.
2017):

  y = (x - mean) / sqrt(var + 1e-5) (1 + gain(condition)) + bias(condition),

over the batch and its pixels in training, by running averages otherwise.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from diffmem.arrays import Float, Int
from diffmem.models import layers
from diffmem.models.convolution import convolve

MOMENTUM = 0.1  # of the running averages, a step's share
EPSILON = 1e-5  # added to variances


class Stat(nnx.Variable):
  """What training changes but no gradient does."""

  def follow(self, value: Array, rate: float) -> None:
    """Moves by `rate` towards a value, a constant to the gradient."""
    value = jax.lax.stop_gradient(value)
    self[...] = self[...] + rate * (value - self[...])


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the layers of a family start and are normalised.

  Attributes:
    init: of the 3x3 kernels inside blocks; see `start`.
    outer: of all other kernels.
    spectral: whether kernels are divided by their largest singular value.
  """

  init: str
  outer: str
  spectral: bool


def start(
  name: str, shape: tuple[int, ...], draws: layers.Draws
) -> Float[Array, "..."]:
  """Initial kernel [.. inputs outputs].

  normal: N(0, 0.02^2); glorot: uniform of variance 2 / (fan in + fan out); he:
  uniform of variance 2 / fan in.
  """
  if name == "normal":
    return draws.normal(shape, 0.02)
  if name == "he":
    return draws.uniform(shape, 2.0 / math.prod(shape[:-1]))
  return draws.kernel(shape, zero=False)


class Weight(nnx.Module):
  """A kernel [.. inputs outputs], divided by its spectral norm if so asked."""

  def __init__(
    self,
    shape: tuple[int, ...],
    init: str,
    spectral: bool,
    *,
    draws: layers.Draws,
  ):
    self.kernel = nnx.Param(start(init, shape, draws))
    self.u = Stat(draws.normal((shape[-1],), 1.0)) if spectral else None

  def __call__(self, train: bool) -> Float[Array, "..."]:
    kernel = self.kernel[...]
    if self.u is None:
      return kernel
    matrix = kernel.reshape(-1, kernel.shape[-1])
    fixed = jax.lax.stop_gradient(matrix)
    v = _unit(fixed @ self.u[...])
    u = _unit(v @ fixed)
    if train:
      self.u.follow(u, 1.0)
    return kernel / (v @ matrix @ u)


def _unit(x: Float[Array, " n"]) -> Float[Array, " n"]:
  return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


class Dense(nnx.Module):
  """y = x W + b."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    recipe: Recipe,
    *,
    bias: bool = True,
    draws: layers.Draws,
  ):
    shape = (inputs, outputs)
    self.weight = Weight(shape, recipe.outer, recipe.spectral, draws=draws)
    self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None

  def __call__(self, x: Float[Array, "b i"], train: bool) -> Array:
    y = x @ self.weight(train)
    return y if self.bias is None else y + self.bias[...][None, :]


class Conv(nnx.Module):
  """A zero-padded size x size convolution that keeps h and w."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    recipe: Recipe,
    *,
    size: int = 3,
    outer: bool = False,
    draws: layers.Draws,
  ):
    init = recipe.outer if outer or size == 1 else recipe.init
    shape = (size, size, inputs, outputs)
    self.weight = Weight(shape, init, recipe.spectral, draws=draws)
    self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

  def __call__(
    self, x: Float[Array, "b h w i"], train: bool
  ) -> Float[Array, "b h w o"]:
    y = convolve(x, self.weight(train), 1)
    return y + self.bias[...].reshape(1, 1, 1, -1)


class BatchNorm(nnx.Module):
  """Batch normalisation; plain, by class (a table) or by a vector.

  `features` is the length of the vector, `classes` the number of classes; with
  neither, gain and bias are parameters of their own.
  """

  def __init__(
    self,
    channels: int,
    *,
    classes: int | None = None,
    features: int = 0,
    recipe: Recipe | None = None,
    draws: layers.Draws,
  ):
    if features and recipe is not None:
      self.gain = Dense(features, channels, recipe, bias=False, draws=draws)
      self.bias = Dense(features, channels, recipe, bias=False, draws=draws)
    elif classes is not None:
      self.gain = nnx.Param(draws.normal((classes, channels), 0.02))
      self.bias = nnx.Param(draws.normal((classes, channels), 0.02))
    else:
      self.gain = nnx.Param(jnp.zeros((1, channels), jnp.float32))
      self.bias = nnx.Param(jnp.zeros((1, channels), jnp.float32))
    self.by_class = not features and classes is not None
    self.mean = Stat(jnp.zeros(channels, jnp.float32))
    self.var = Stat(jnp.ones(channels, jnp.float32))

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    condition: Float[Array, "b e"] | Int[Array, " b"] | None,
    train: bool,
  ) -> Float[Array, "b h w c"]:
    gain, bias = (
      self._of(part, condition, train) for part in (self.gain, self.bias)
    )
    mean, var = self.mean[...], self.var[...]
    if train:
      b, h, w, c = x.shape
      pixels = x.reshape(b, h * w, c)
      mean = pixels.sum(1).mean(0) / (h * w)
      second = jnp.square(pixels).sum(1).mean(0) / (h * w)
      var = jnp.maximum(second - jnp.square(mean), 0.0)
      n = b * h * w
      self.mean.follow(mean, MOMENTUM)
      self.var.follow(var * (n / max(n - 1, 1)), MOMENTUM)  # unbiased
    a = (1.0 + gain) * jax.lax.rsqrt(var + EPSILON)[None, :]
    d = bias - a * mean[None, :]
    return x * a[:, None, None, :] + d[:, None, None, :]

  def _of(self, part, condition, train: bool) -> Float[Array, "#b c"]:
    """Gain or bias of each sample, or of all of them."""
    if isinstance(part, Dense):
      return part(condition, train)
    return part[...][condition] if self.by_class else part[...]


@dataclasses.dataclass(frozen=True)
class Grid:
  """From a first grid of `bottom` pixels to an image by doublings.

  A side that is no `bottom` times a power of two is made larger inside: a
  generator's image is cropped at its end, a discriminator's is followed by
  zeros (grey).
  """

  image: tuple[int, int]
  bottom: tuple[int, int]
  doublings: int

  @classmethod
  def of(
    cls, shape: tuple[int, int, int], doublings: int | None = None
  ) -> "Grid":
    """Bottom sides of 4 to 8 (28 is 7 doubled twice), unless told how often.

    ValueError for images with a side below 4.
    """
    h, w = shape[:2]
    if min(h, w) < 4:
      raise ValueError(f"images of {h}x{w}; expected sides of 4 or more")
    if doublings is None:
      doublings = int(math.log2(min(h, w) // 4))
    bottom = (-(-h // 2**doublings), -(-w // 2**doublings))
    return cls((h, w), bottom, doublings)

  def side(self, level: int) -> int:
    """The side that counts for channels: 4 doubled `level` times."""
    return 4 * 2**level

  def crop(self, images: Float[Array, "b y x c"]) -> Float[Array, "b h w c"]:
    """The image in what a generator made."""
    return images[:, : self.image[0], : self.image[1]]

  def pad(self, images: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    """The image with what is missing to its sides inside."""
    sides = [side * 2**self.doublings for side in self.bottom]
    if tuple(sides) == self.image:
      return images
    more = [(0, y - h) for y, h in zip(sides, self.image, strict=True)]
    return jnp.pad(images, [(0, 0), *more, (0, 0)])


def blur(
  x: Float[Array, "b h w c"], mode: str = "constant"
) -> Float[Array, "b h w c"]:
  """[1, 2, 1] / 4 along both sides; zeros or (mode "edge") edges beyond them.

  After `layers.double` it is the up-sampling by [1, 3, 3, 1] of StyleGAN2
  with zeros, and bilinear up-sampling with edges; before `halve` it is the
  down-sampling of StyleGAN2.
  """
  for axis in (1, 2):
    ends = [(0, 0)] * 4
    ends[axis] = (1, 1)
    n, y = x.shape[axis], jnp.pad(x, ends, mode=mode)
    one, two, three = (
      jax.lax.slice_in_dim(y, i, i + n, axis=axis) for i in range(3)
    )
    x = 0.25 * (one + three) + 0.5 * two
  return x


def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
  """Means of 2 x 2 pixels."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))

# SPDX-License-Identifier: Apache-2.0
"""Layers of the denoisers: NHWC, float32 parameters, any compute dtype.

Group normalisation (Wu and He 2018) over groups of g channels and all pixels,

  y = (x - mean) / sqrt(var + epsilon) * scale + bias;

self-attention over pixels (Vaswani et al. 2017); the sinusoidal embedding of
the schedule index t,

  [sin(t w_i), cos(t w_i)],  w_i = 10000^(-i / (half - 1)),

as in Ho et al. 2020. Kernels start as in that paper: uniform with variance
1 / mean(fan in, fan out), or zero where a branch is to start as nothing.

Networks written in PyTorch differ from that paper's in three small things,
which weights trained there must find again; see `Conventions`.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from diffmem.arrays import Float, Int, Key
from diffmem.models.convolution import convolve


@dataclasses.dataclass(frozen=True)
class Conventions:
  """Where published networks differ in detail.

  Attributes:
    epsilon: added to the variance of a group.
    first: a halving convolution of an even side pads its first edge, not its
      last one.
    closed: the slowest wave of the embedding is exactly 1 / 10000,
      w_i = 10000^(-i / (half - 1)); open has w_i = 10000^(-i / half).
  """

  epsilon: float
  first: bool
  closed: bool


CONVENTIONS = {
  "ho": Conventions(epsilon=1e-6, first=False, closed=True),
  "torch": Conventions(epsilon=1e-5, first=True, closed=False),
}
HO = CONVENTIONS["ho"]


class Draws:
  """Initial values of all kernels, as slices of one uniform draw.

  A random call for each kernel takes XLA seconds to compile; one call takes
  none. A first pass without `values` counts how many are needed.
  """

  def __init__(self, values: Float[Array, " n"] | None = None):
    self.values = values
    self.used = 0

  def uniform(
    self, shape: tuple[int, ...], variance: float
  ) -> Float[Array, "..."]:
    """Uniform values of mean zero and the given variance."""
    start, self.used = self.used, self.used + math.prod(shape)
    if self.values is None:
      return jnp.zeros(shape, jnp.float32)
    values = self.values[start : self.used].reshape(shape)
    return values * math.sqrt(3.0 * variance)

  def normal(self, shape: tuple[int, ...], std: float) -> Float[Array, "..."]:
    """Normal values of mean zero, by the inverse of the distribution."""
    u = self.uniform(shape, 1.0 / 3.0)  # in [-1, 1), where -1 would be -inf
    open_end = float(np.nextafter(np.float32(-1.0), np.float32(0.0)))
    u = jnp.maximum(u, open_end)
    return std * math.sqrt(2.0) * jax.scipy.special.erfinv(u)

  def kernel(self, shape: tuple[int, ...], zero: bool) -> Float[Array, "..."]:
    """Zero, or of variance 2 / (fan in + fan out); shape ends in (in, out)."""
    if zero:
      return jnp.zeros(shape, jnp.float32)
    fans = math.prod(shape[:-2]) * (shape[-2] + shape[-1])
    return self.uniform(shape, 2.0 / fans)


class Dense(nnx.Module):
  """y = x W + b on the last axis; computes in the dtype of x."""

  def __init__(self, inputs: int, outputs: int, *, zero=False, draws: Draws):
    self.kernel = nnx.Param(draws.kernel((inputs, outputs), zero))
    self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

  def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
    y = x @ self.kernel[...].astype(x.dtype)
    bias = self.bias[...].astype(x.dtype)
    return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class Conv(nnx.Module):
  """A size x size convolution, zero padded, that keeps or halves h and w."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    *,
    size=3,
    stride=1,
    zero=False,
    conventions: Conventions = HO,
    draws: Draws,
  ):
    shape = (size, size, inputs, outputs)
    self.kernel = nnx.Param(draws.kernel(shape, zero))
    self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
    self.stride, self.first = stride, conventions.first

  def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
    kernel = self.kernel[...].astype(x.dtype)
    y = convolve(x, kernel, self.stride, self.first)
    return y + self.bias[...].astype(x.dtype).reshape(1, 1, 1, -1)


class GroupNorm(nnx.Module):
  """Group normalisation, optionally modulated and followed by SiLU.

  With a modulation (s, m), each [b c], y becomes y * (1 + s) + m.
  """

  def __init__(self, channels: int, groups: int, conventions: Conventions = HO):
    self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
    self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
    self.groups = group_count(channels, groups)
    self.epsilon = conventions.epsilon

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    *,
    modulation: tuple[Float[Array, "b c"], Float[Array, "b c"]] | None = None,
    activate: bool = False,
  ) -> Float[Array, "b h w c"]:
    scale, bias = self.scale[...][None, :], self.bias[...][None, :]
    if modulation is not None:
      by, shift = (m.astype(jnp.float32) for m in modulation)
      scale, bias = scale * (1.0 + by), bias * (1.0 + by) + shift
    y = group_norm(x, scale, bias, self.groups, self.epsilon)
    return silu(y) if activate else y


def group_count(channels: int, groups: int) -> int:
  """The largest number of groups, at most `groups`, that divides channels."""
  return max(g for g in range(1, groups + 1) if channels % g == 0)


def group_norm(
  x: Float[Array, "b h w c"],
  scale: Float[Array, "#b c"],
  bias: Float[Array, "#b c"],
  groups: int,
  epsilon: float = 1e-6,
) -> Float[Array, "b h w c"]:
  """Group normalisation as y = x * a + d with a, d [b c]; float32 statistics.

  Sums over pixels come first, for each channel, and groups after, on [b c]:
  forward and backward then pass over x only in its own order of memory, which
  on a CPU is three times faster than reducing over [h w channels of a group].
  """
  b, h, w, c = x.shape
  pixels = x.reshape(b, h * w, c).astype(jnp.float32)

  def mean(sums):
    means = sums.reshape(b, groups, -1).sum(-1, keepdims=True)
    means = means / (h * w * c // groups)
    return jnp.broadcast_to(means, (b, groups, c // groups)).reshape(b, c)

  first, second = mean(pixels.sum(1)), mean(jnp.square(pixels).sum(1))
  var = jnp.maximum(second - jnp.square(first), 0.0)
  a = scale * jax.lax.rsqrt(var + epsilon)
  d = bias - first * a
  y = pixels * a[:, None, :] + d[:, None, :]
  return y.reshape(x.shape).astype(x.dtype)


def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """SiLU, x * sigmoid(x), by tanh, faster on CPUs than exp and divide."""
  return x * (0.5 * jnp.tanh(0.5 * x) + 0.5)


class LayerNorm(nnx.Module):
  """Normalisation over the features of each sample; float32 statistics."""

  def __init__(self, features: int):
    self.scale = nnx.Param(jnp.ones(features, jnp.float32))
    self.bias = nnx.Param(jnp.zeros(features, jnp.float32))

  def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    y = jax.nn.standardize(x.astype(jnp.float32), axis=-1, epsilon=1e-6)
    y = y * self.scale[...][None, :] + self.bias[...][None, :]
    return y.astype(x.dtype)


class Attention(nnx.Module):
  """x + attention among all pixels of a sample, `heads` heads."""

  def __init__(
    self,
    channels: int,
    *,
    heads: int,
    groups: int,
    conventions: Conventions = HO,
    draws: Draws,
  ):
    if channels % heads:
      raise ValueError(
        f"heads={heads} does not divide the {channels} channels where "
        "attention is applied; choose a divisor"
      )
    self.heads = heads
    self.norm = GroupNorm(channels, groups, conventions)
    self.qkv = Dense(channels, 3 * channels, draws=draws)
    self.out = Dense(channels, channels, zero=True, draws=draws)

  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    b, h, w, c = x.shape
    tokens = self.norm(x).reshape(b, h * w, c)
    shape = (b, h * w, 3, self.heads, c // self.heads)
    q, k, v = jnp.moveaxis(self.qkv(tokens).reshape(shape), 2, 0)
    y = jax.nn.dot_product_attention(q, k, v)
    return x + self.out(y.reshape(b, h * w, c)).reshape(x.shape)


class Embedding(nnx.Module):
  """Schedule index, and class where there is one, to a vector [b outputs].

  Classes are 0..num_classes - 1; index num_classes is the null class.
  """

  def __init__(
    self,
    features: int,
    outputs: int,
    *,
    num_classes: int | None,
    time_scale: float,
    conventions: Conventions = HO,
    draws: Draws,
  ):
    self.features = features
    self.closed = conventions.closed
    self.time_scale = time_scale
    self.first = Dense(features, outputs, draws=draws)
    self.second = Dense(outputs, outputs, draws=draws)
    classes = 0 if num_classes is None else num_classes + 1
    table = draws.uniform((classes, outputs), 1.0)
    self.table = nnx.Param(table) if classes else None

  def __call__(
    self, t: Int[Array, " b"], cond: Int[Array, " b"] | None, dtype: jnp.dtype
  ) -> Float[Array, "b e"]:
    t = t.astype(jnp.float32) * self.time_scale
    waves = sinusoids(t, self.features, self.closed)
    y = self.second(silu(self.first(waves.astype(dtype))))
    if self.table is not None:
      y = y + self.table[...].astype(dtype)[cond]
    return y


def sinusoids(
  t: Float[Array, " b"], features: int, closed: bool = True
) -> Float[Array, "b e"]:
  """[sin(t w_i), cos(t w_i)], w_i from 1 to 1 / 10000, or not quite to it."""
  half = features // 2
  steps = jnp.arange(half, dtype=jnp.float32) / max(half - closed, 1)
  angles = t[:, None] * jnp.exp(-math.log(10000.0) * steps)[None, :]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def dropout(
  x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None
) -> Float[Array, "..."]:
  """Zeroes a share `rate` and scales the rest up; nothing without a key."""
  if key is None or rate == 0.0:
    return x
  keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
  return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
  """Nearest up-sampling: every pixel becomes 2 x 2 pixels."""
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
  return x.reshape(b, 2 * h, 2 * w, c)


def key_sequence(
  key: Key[Array, ""] | None,
) -> Iterator[Key[Array, ""] | None]:
  """Endless keys, one for each layer that draws; endless None for None."""
  for i in itertools.count():
    yield None if key is None else jax.random.fold_in(key, i)


def check_sizes(width: int, blocks: int, dropout: float) -> None:
  """ValueError where a knob that both networks have is out of range."""
  if width < 2 or width % 2:
    raise ValueError(
      f"width={width}; expected an even number (sines and cosines), 2 or more"
    )
  if blocks < 1:
    raise ValueError(f"blocks={blocks}; expected 1 or more")
  if not 0.0 <= dropout < 1.0:
    raise ValueError(f"dropout={dropout}; expected a rate in [0, 1)")


def conventions(name: str) -> Conventions:
  """The conventions of that name; ValueError with the choices."""
  if name not in CONVENTIONS:
    raise ValueError(
      f"conventions={name!r}; expected one of {', '.join(CONVENTIONS)}"
    )
  return CONVENTIONS[name]

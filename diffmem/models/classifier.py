# SPDX-License-Identifier: Apache-2.0
"""Classifiers of noised images, p(y | x_t, t), and of plain ones, p(y | x).

A residual block of a ResNet (He et al. 2016) with one time module, right after
its first normalisation (Chen et al., arXiv 2410.02467, appendix B):

  y   = silu(film(norm(conv(x)), t));   out = silu(skip(x) + norm(conv(y)))
  film(y, t) = y (1 + a) + b,   (a, b) = dense(silu(dense(waves(t))))

a and b are per channel and start as zero. The same network without its time
modules is the plain classifier: `transfer` makes a timed one that starts as
the plain one at every t. Normalisation is over groups of channels, not over
the batch: what an image is taken for never depends on its neighbours.

  mlp  for tiny images, on flattened pixels: h = W x; then `blocks` times
       h = h + dense(silu(dense(film(norm(h), t)))); logits = dense(norm(h))
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from diffmem.arrays import AnyArray, Float, Int, Key
from diffmem.models import layers

WAVES = 128  # features of t


@dataclasses.dataclass(frozen=True)
class Classifier:
  """Two pure functions.

  init(key) -> params; apply(params, x [b h w c], t int [b]) -> float32 logits
  [b classes]. A plain one takes t and does not look at it.
  """

  name: str
  shape: tuple[int, int, int]
  classes: int
  timed: bool
  init: Callable[..., dict[str, Any]]
  apply: Callable[..., Float[jax.Array, "b k"]]


class Film(nnx.Module):
  """y (1 + a) + b with a, b [channels] from t; starts as y."""

  def __init__(self, channels: int, scale: float, *, draws: layers.Draws):
    self.scale = scale
    self.first = layers.Dense(WAVES, channels, draws=draws)
    self.second = layers.Dense(channels, 2 * channels, zero=True, draws=draws)

  def __call__(self, y: Float[Array, "b ... c"], t: Int[Array, " b"]) -> Array:
    waves = layers.sinusoids(t.astype(jnp.float32) * self.scale, WAVES)
    both = self.second(layers.silu(self.first(waves)))
    both = both.reshape(len(y), *(1,) * (y.ndim - 2), -1)
    a, b = jnp.split(both, 2, axis=-1)
    return y * (1.0 + a) + b


class Block(nnx.Module):
  """A residual block from `inputs` to `outputs` channels."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    stride: int,
    groups: int,
    time_scale: float | None,
    *,
    draws: layers.Draws,
  ):
    self.conv1 = layers.Conv(inputs, outputs, stride=stride, draws=draws)
    self.norm1 = layers.GroupNorm(outputs, groups)
    self.time = _film(outputs, time_scale, draws)
    self.conv2 = layers.Conv(outputs, outputs, draws=draws)
    self.norm2 = layers.GroupNorm(outputs, groups)
    self.skip = (
      layers.Conv(inputs, outputs, size=1, stride=stride, draws=draws)
      if inputs != outputs or stride > 1
      else None
    )

  def __call__(
    self, x: Float[Array, "b h w i"], t: Int[Array, " b"]
  ) -> Float[Array, "b y x o"]:
    y = self.norm1(self.conv1(x))
    y = layers.silu(y if self.time is None else self.time(y, t))
    x = x if self.skip is None else self.skip(x)
    return layers.silu(x + self.norm2(self.conv2(y)))


class ResNet(nnx.Module):
  """x [b h w c], t [b] -> logits [b classes].

  Knobs:
    width: channels at the first level.
    multipliers: channels of each level, as multiples of width; each level
      halves the sides of the one before.
    blocks: residual blocks of each level; (3, 4, 6, 3) with multipliers (1,
      2, 4, 8) and width 64 is a ResNet-34.
    groups: of group normalisation, at most.
    time_scale: the time modules see t * time_scale.
  """

  def __init__(
    self,
    shape: tuple[int, int, int],
    classes: int,
    timed: bool,
    draws: layers.Draws,
    *,
    width: int = 64,
    multipliers: Sequence[int] = (1, 2, 4, 8),
    blocks: Sequence[int] = (3, 4, 6, 3),
    groups: int = 32,
    time_scale: float = 1.0,
  ):
    if not multipliers or len(multipliers) != len(blocks) or min(blocks) < 1:
      raise ValueError(
        f"multipliers={tuple(multipliers)}, blocks={tuple(blocks)}; expected "
        "as many of both, at least one, and 1 block or more each"
      )
    layers.check_sizes(width, min(blocks), 0.0)
    scale = time_scale if timed else None
    self.stem = layers.Conv(shape[2], width, draws=draws)
    self.norm = layers.GroupNorm(width, groups)
    parts, c = {}, width
    for level, (m, count) in enumerate(zip(multipliers, blocks, strict=True)):
      for i in range(count):
        stride = 2 if level and not i else 1
        parts[f"block_{level}_{i}"] = Block(
          c, width * m, stride, groups, scale, draws=draws
        )
        c = width * m
    self.names = tuple(parts)
    self.blocks = nnx.Dict(parts)
    self.out = layers.Dense(c, classes, draws=draws)

  def __call__(
    self, x: Float[Array, "b h w c"], t: Int[Array, " b"]
  ) -> Float[Array, "b k"]:
    y = self.norm(self.stem(x), activate=True)
    for name in self.names:
      y = self.blocks[name](y, t)
    return self.out(y.mean(axis=(1, 2)))


class MLPBlock(nnx.Module):
  """One residual block of `width` features."""

  def __init__(
    self, width: int, time_scale: float | None, *, draws: layers.Draws
  ):
    self.norm = layers.LayerNorm(width)
    self.time = _film(width, time_scale, draws)
    self.first = layers.Dense(width, width, draws=draws)
    self.second = layers.Dense(width, width, zero=True, draws=draws)

  def __call__(
    self, x: Float[Array, "b d"], t: Int[Array, " b"]
  ) -> Float[Array, "b d"]:
    y = self.norm(x)
    y = y if self.time is None else self.time(y, t)
    return x + self.second(layers.silu(self.first(y)))


class MLP(nnx.Module):
  """x [b h w c], t [b] -> logits [b classes], for tiny images.

  Knobs:
    width: features of the hidden layers.
    blocks: residual blocks.
    time_scale: the time modules see t * time_scale.
  """

  def __init__(
    self,
    shape: tuple[int, int, int],
    classes: int,
    timed: bool,
    draws: layers.Draws,
    *,
    width: int = 256,
    blocks: int = 3,
    time_scale: float = 1.0,
  ):
    layers.check_sizes(width, blocks, 0.0)
    scale = time_scale if timed else None
    self.stem = layers.Dense(math.prod(shape), width, draws=draws)
    parts = {
      f"block_{i}": MLPBlock(width, scale, draws=draws) for i in range(blocks)
    }
    self.names = tuple(parts)
    self.blocks = nnx.Dict(parts)
    self.norm = layers.LayerNorm(width)
    self.out = layers.Dense(width, classes, draws=draws)

  def __call__(
    self, x: Float[Array, "b h w c"], t: Int[Array, " b"]
  ) -> Float[Array, "b k"]:
    y = self.stem(x.reshape(len(x), -1))
    for name in self.names:
      y = self.blocks[name](y, t)
    return self.out(self.norm(y))


CLASSIFIERS = {"resnet": ResNet, "mlp": MLP}


def create(
  name: str,
  *,
  shape: Sequence[int],
  classes: int,
  timed: bool,
  **knobs: Any,
) -> Classifier:
  """The classifier `name` of images of `shape` (h, w, c); allocates nothing.

  Raises ValueError for an unknown name or knob, and for fewer than 2 classes.
  """
  if name not in CLASSIFIERS:
    raise ValueError(
      f"classifier {name!r}, expected one of {', '.join(CLASSIFIERS)}"
    )
  if classes < 2:
    raise ValueError(f"{classes} classes: a classifier needs 2 or more")
  network = CLASSIFIERS[name]
  parameters = inspect.signature(network.__init__).parameters.values()
  options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
  for knob in knobs:
    if knob not in options:
      raise ValueError(
        f"classifier {name!r} has no knob {knob!r}, expected one of "
        f"{', '.join(options)}"
      )
  h, w, c = (int(side) for side in shape)

  def build(draws: layers.Draws) -> nnx.Module:
    return network((h, w, c), classes, timed, draws, **knobs)

  counted = layers.Draws()
  graph, _ = nnx.split(nnx.eval_shape(lambda: build(counted)))

  @jax.jit
  def init(key: Key[jax.Array, ""]) -> dict[str, Any]:
    values = jax.random.uniform(key, (counted.used,), jnp.float32, -1.0, 1.0)
    return nnx.to_pure_dict(nnx.state(build(layers.Draws(values)), nnx.Param))

  def apply(
    params: dict[str, Any],
    x: Float[AnyArray, "b h w c"],
    t: Int[AnyArray, " b"],
  ) -> Float[jax.Array, "b k"]:
    module = nnx.merge(graph, nnx.State(params))
    return module(jnp.asarray(x), jnp.asarray(t)).astype(jnp.float32)

  return Classifier(name, (h, w, c), classes, timed, init, apply)


def transfer(plain: dict[str, Any], timed: dict[str, Any]) -> dict[str, Any]:
  """Fresh weights of a timed classifier, with those of the plain one in them.

  Time modules start as nothing, so the result says at every t what the plain
  classifier says.
  """
  return {
    key: transfer(plain[key], value)
    if key in plain and isinstance(value, dict)
    else plain.get(key, value)
    for key, value in timed.items()
  }


def _film(
  channels: int, scale: float | None, draws: layers.Draws
) -> Film | None:
  return None if scale is None else Film(channels, scale, draws=draws)

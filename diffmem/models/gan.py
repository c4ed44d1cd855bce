# SPDX-License-Identifier: Apache-2.0
"""Generators and discriminators behind one pure interface.

Inside, layers are Flax NNX modules; outside a GAN is two networks of two pure
functions each,

  variables = network.init(key)       {"params": .., "state": ..}, nested dicts
  images, state = gan.generator.apply(variables, z, cond, key=None, train=False)
  logits, state = gan.discriminator.apply(variables, x, cond, ...)

with z [b latent], standard normal; images and x [b h w c] in [-1, 1]; logits
float32 [b], higher for real images; cond int32 [b], the class, or None for a
GAN without classes. The state is what training changes but no gradient does:
running averages and the vectors of spectral normalisation, float32 arrays. It
is returned as it should be next, and as it was when not training.

With train=True a network sees its batch (batch normalisation, the standard
deviation over a group), and an image of StyleGAN2 may leave [-1, 1]. Without,
averages stand in for the batch: an image is a function of its own z, and a
logit of its own image. `key` draws the noise inputs of StyleGAN2; None takes
the fixed ones.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffmem.arrays import AnyArray, Float, Int, Key
from diffmem.models import e2gan, layers, residual_gan, stylegan2
from diffmem.models.choices import choose
from diffmem.models.gan_layers import Stat

__all__ = ["FAMILIES", "GAN", "Network", "create"]

# family -> (generator, discriminator)
FAMILIES = {
  "stylegan2": (stylegan2.Generator, stylegan2.Discriminator),
  "biggan": (residual_gan.Generator, residual_gan.Discriminator),
  "e2gan": (e2gan.Generator, e2gan.Discriminator),
  "resnet": (residual_gan.ResNetGenerator, residual_gan.ResNetDiscriminator),
}


@dataclasses.dataclass(frozen=True)
class Network:
  """One of the two networks as pure functions; see the module's text."""

  init: Callable[..., dict[str, Any]]
  apply: Callable[..., tuple[Any, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class GAN:
  """Two networks that fit; see the module's text."""

  family: str
  shape: tuple[int, int, int]
  num_classes: int | None
  latent: int
  generator: Network
  discriminator: Network


def create(
  family: str,
  *,
  shape: tuple[int, int, int],
  num_classes: int | None = None,
  latent: int = 128,
  **knobs: Any,
) -> GAN:
  """The GAN of `family` for images of `shape` (h, w, c); allocates nothing.

  Knobs are those of the family's two networks; one that both have is given to
  both. Raises ValueError for an unknown family or knob, and for a shape or
  knobs that do not fit together.
  """
  choose("family of GANs", family, FAMILIES)
  taken = [_options(network) for network in FAMILIES[family]]
  for knob in knobs:
    choose(f"knob of {family}", knob, {*taken[0], *taken[1]})
  if latent < 1:
    raise ValueError(f"latent={latent}; expected 1 number or more")
  if num_classes is not None and num_classes < 1:
    raise ValueError(f"num_classes={num_classes}; expected 1 or more, or None")
  h, w, c = shape = (int(shape[0]), int(shape[1]), int(shape[2]))
  if c < 1:
    raise ValueError(f"shape={shape}; expected (h, w, channels)")
  generator, discriminator = (
    _network(module, shape, num_classes, latent, knobs, options, inputs)
    for module, options, inputs in zip(
      FAMILIES[family], taken, ((latent,), (h, w, c)), strict=True
    )
  )
  return GAN(family, shape, num_classes, latent, generator, discriminator)


def _options(network: type) -> list[str]:
  parameters = inspect.signature(network.__init__).parameters.values()
  return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _network(
  module: type,
  shape: tuple[int, int, int],
  num_classes: int | None,
  latent: int,
  knobs: dict[str, Any],
  options: list[str],
  inputs: tuple[int, ...],
) -> Network:
  """A module as pure functions; `inputs` is the shape of one of its inputs."""
  own = {name: value for name, value in knobs.items() if name in options}

  def build(draws: layers.Draws) -> nnx.Module:
    return module(shape, num_classes, latent, draws, **own)

  counted = layers.Draws()
  graph, *_ = nnx.split(nnx.eval_shape(lambda: build(counted)), nnx.Param, Stat)

  @jax.jit
  def init(key: Key[jax.Array, ""]) -> dict[str, Any]:
    values = jax.random.uniform(key, (counted.used,), jnp.float32, -1.0, 1.0)
    built = build(layers.Draws(values))
    return {
      "params": nnx.to_pure_dict(nnx.state(built, nnx.Param)),
      "state": nnx.to_pure_dict(nnx.state(built, Stat)),
    }

  def apply(
    variables: dict[str, Any],
    x: Float[AnyArray, "b ..."],
    cond: Int[AnyArray, " b"] | None,
    *,
    key: Key[jax.Array, ""] | None = None,
    train: bool = False,
  ) -> tuple[Float[jax.Array, "b ..."], dict[str, Any]]:
    _check(x, cond, inputs, num_classes)
    merged = nnx.merge(
      graph, nnx.State(variables["params"]), nnx.State(variables["state"])
    )
    cond = None if cond is None else jnp.asarray(cond)
    y = merged(jnp.asarray(x), cond, key, train)
    return y, nnx.to_pure_dict(nnx.state(merged, Stat))

  return Network(init, apply)


def _check(x, cond, inputs: tuple[int, ...], num_classes: int | None) -> None:
  if x.shape[1:] != inputs:
    raise ValueError(
      f"inputs of shape {x.shape[1:]} given to a network of {inputs} inputs"
    )
  if (cond is None) != (num_classes is None):
    raise ValueError(
      "this GAN has no classes: pass cond=None"
      if num_classes is None
      else f"this GAN has {num_classes} classes: pass cond [b]"
    )

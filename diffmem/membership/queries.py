# SPDX-License-Identifier: Apache-2.0
"""What a signal asks of a network: eps, ddim hops, or any function of it.

A network function is f(denoiser, params, *arrays, **static). It is compiled
once for each architecture, not for each set of weights: models that share
`apply` (shadow models) share their programs. Calls return before they are
computed; a denoiser that JAX cannot trace is called on the host, at once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from diffmem import keys, mesh
from diffmem.arrays import AnyArray, Float, Int, Key
from diffmem.denoiser import Denoiser
from diffmem.diffusion import steppers

Images = Float[AnyArray, "b h w c"]
Pixels = Float[AnyArray, "b height width channels"]
_KEPT = 1 << 28  # bytes of noise kept on each device


class Queries:
  """A denoiser with its weights in place, and the noise that all share."""

  def __init__(self, denoiser: Denoiser, devices: Mesh):
    self.denoiser = denoiser
    whole = mesh.replicated(devices)
    self._whole = whole if denoiser.traceable else None
    self._network = _Network(denoiser)
    self._noise: dict[tuple[int, int, int], jax.Array] = {}
    self._numbers: dict[int, Any] = {}
    self.params = self._place(denoiser.params)

  def call(self, function: Callable, *arrays: Any, **static: Any) -> Any:
    """function(denoiser, params, *arrays, **static).

    Args:
      function: of module level, so that its program is found again; the
        denoiser that it is given has no weights, they are `params`.
      *arrays: arrays, the leading axis of images sharded; or trees of them.
      **static: hashable options, one program for each value.
    """
    if not self.denoiser.traceable:
      return function(self.denoiser, self.params, *arrays, **static)
    fixed = tuple(sorted(static.items()))
    return _compiled(function, self._network, fixed)(self.params, *arrays)

  def eps(self, x: Images, t: int, cond: Any) -> Images:
    """The predicted noise in x at time t."""
    return self.call(_eps, x, self.number(t), cond)

  def hop(self, x: Images, t: int, u: int, cond: Any) -> Images:
    """The deterministic ddim hop from time t to u: `steppers.transport`."""
    return self.call(_hop, x, self.number(t), self.number(u), cond)

  def encode(self, images: Pixels) -> Images:
    """Images as the network sees them: latents, where it works on those."""
    if self.denoiser.encode is None:
      return images
    return self.call(_encode, images)

  def decode(self, x: Images) -> Pixels:
    """The way back."""
    if self.denoiser.decode is None:
      return x
    return self.call(_decode, x)

  def noise(self, seed: int, t: int, draw: int) -> Float[jax.Array, "h w c"]:
    """`noise(seed, t, draw, shape)`, made once and kept."""
    name = (seed, t, draw)
    if name in self._noise:
      return self._noise[name]
    eps = _maker(tuple(self.denoiser.shape), self._whole)(_root(seed), t, draw)
    if (len(self._noise) + 1) * eps.nbytes <= _KEPT:
      self._noise[name] = eps
    return eps

  def number(self, value: int) -> Any:
    """An int32 on every device."""
    if value not in self._numbers:
      self._numbers[value] = self._place(np.int32(value))
    return self._numbers[value]

  def _place(self, tree: Any) -> Any:
    # Once, not at every call.
    if self._whole is None:
      return tree
    return jax.device_put(tree, self._whole)


def noise(
  seed: int, t: int, draw: int, shape: tuple[int, ...]
) -> Float[jax.Array, "..."]:
  """Draw j at time t: a function of (seed, t, j) and the shape alone."""
  return _maker(shape, None)(_root(seed), t, draw)


def noise_key(seed: int, t: int, draw: int) -> Key[jax.Array, ""]:
  """The key that draw j at time t is made from."""
  return _fold(_root(seed), t, draw)


@functools.lru_cache(maxsize=8)
def _maker(shape: tuple[int, ...], where: NamedSharding | None) -> Callable:
  """(key, t, draw) -> noise, in one program, on every device at once."""

  def make(key, t, draw):
    return jax.random.normal(_fold(key, t, draw), shape)

  return jax.jit(make, out_shardings=where)


@functools.lru_cache(maxsize=8)
def _root(seed: int) -> Key[jax.Array, ""]:
  return keys.stream(keys.root(seed), "membership noise")


@jax.jit
def _fold(
  key: Key[jax.Array, ""],
  t: int | Int[jax.Array, ""],
  draw: int | Int[jax.Array, ""],
) -> Key[jax.Array, ""]:
  return jax.random.fold_in(jax.random.fold_in(key, t), draw)


class _Network:
  """A denoiser without its weights; equal where programs can be shared."""

  def __init__(self, denoiser: Denoiser):
    self.bare, function = denoiser, denoiser.eps
    if denoiser.apply is not None:
      self.bare = dataclasses.replace(denoiser, params=(), eps=None)
      function = denoiser.apply
    self._key = (
      function,
      denoiser.encode,
      denoiser.decode,
      denoiser.schedule,
      tuple(denoiser.shape),
      denoiser.learned_variance,
      denoiser.prediction,
    )
    self._hash = hash(self._key)  # asked for at every call

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Network) and self._key == other._key

  def __hash__(self) -> int:
    return self._hash


@functools.lru_cache(maxsize=64)
def _compiled(function: Callable, network: _Network, static: tuple) -> Callable:
  return jax.jit(functools.partial(function, network.bare, **dict(static)))


def _eps(denoiser, params, x, t, cond):
  times = jnp.full(len(x), t, jnp.int32)
  return denoiser.predict(params, x, times, cond)[0]


def _hop(denoiser, params, x, t, u, cond):
  t, u = (jnp.full(len(x), s, jnp.int32) for s in (t, u))
  eps = denoiser.predict(params, x, t, cond)[0]
  return steppers.transport(x, eps, t, u, denoiser.schedule.alpha_bar)


def _encode(denoiser, params, images):
  del params
  return jnp.asarray(denoiser.encode(images), jnp.float32)


def _decode(denoiser, params, x):
  del params
  return jnp.asarray(denoiser.decode(x), jnp.float32)

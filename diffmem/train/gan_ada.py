# SPDX-License-Identifier: Apache-2.0
"""Adaptive augmentation of what a discriminator sees (ADA).

Each transformation is made with probability p, of real and generated images
alike; p rises while the discriminator overfits and falls while it does not:

  r = E[sign D(x)] over real x of `interval` batches
  p <- max(0, p + sign(r - target) * interval * batch / images)

In this order, with w the size of the image along the axis:

  blit      mirror; quarter turns; steps of whole pixels, U(-w/8, w/8)
  geometry  scale by 2^N(0, .2^2); turn; stretch by 2^N(0, .2^2); turn; step by
            N(0, (w/8)^2); the two turns together come with probability p
  colour    brightness + N(0, .2^2); contrast times 2^N(0, .5^2); luma mirrored;
            hue turned; saturation times 2^N(0, 1)

(Karras et al. 2020b, arXiv:2006.06676, section 3 and appendix B: target 0.6,
interval 4, images 500,000.) All moves of pixels are one affine map, as there;
it is read linearly, without the wavelet filter around it.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from diffmem import keys
from diffmem.arrays import Float, Key
from diffmem.train import gan_warp as warp

Images = Float[jax.Array, "b h w c"]
Scalar = Float[jax.Array, ""] | float


def augment(
  x: Images,
  key: Key[jax.Array, ""],
  p: Scalar,
  *,
  blit: bool,
  geometry: bool,
  colour: bool,
) -> Images:
  """Images [b h w c], c = 1 or 3, each with transformations of its own."""
  draw = _Draws(key, p, len(x))
  if blit or geometry:
    maps = warp.identity(len(x))
    if blit:
      maps = _blit(maps, draw, x.shape[1:3])
    if geometry:
      maps = _geometry(maps, draw, x.shape[1:3], p)
    x = warp.affine(x, maps)
  return _colour(x, draw) if colour else x


def init(start: float) -> dict[str, jax.Array]:
  """What the controller remembers: p, and signs since it was last moved."""
  zero = jnp.zeros((), jnp.float32)
  return {"p": jnp.full((), start, jnp.float32), "signs": zero, "seen": zero}


def control(
  state: dict[str, jax.Array],
  logits: Float[jax.Array, " b"],
  *,
  target: float,
  interval: int,
  images: int,
) -> dict[str, jax.Array]:
  """The state after a batch with these logits of real images."""
  signs = state["signs"] + jnp.sign(logits).mean()
  seen = state["seen"] + 1.0
  step = jnp.sign(signs / seen - target) * (interval * len(logits) / images)
  moved = jnp.maximum(state["p"] + step, 0.0)
  full = seen >= interval
  return {
    "p": jnp.where(full, moved, state["p"]),
    "signs": jnp.where(full, 0.0, signs),
    "seen": jnp.where(full, 0.0, seen),
  }


# What is drawn of each image: coins and values that are uniform, and normal
# values. One table of each, for a program of forty small draws takes long to
# compile.
_COINS = (
  *("mirror", "quarters", "pixels"),
  *("scale", "first turn", "stretch", "second turn", "fractions"),
  *("brightness", "contrast", "luma", "hue", "saturation"),
)
_UNIFORM = (
  *("mirror", "quarters", "pixels 0", "pixels 1"),
  *("first turn", "second turn", "luma", "hue"),
)
_NORMAL = (
  *("scale", "stretch", "fractions 0", "fractions 1"),
  *("brightness", "contrast", "saturation"),
)


class _Draws:
  """Values of each image that are neutral but with probability p."""

  def __init__(self, key: Key[jax.Array, ""], p: Scalar, b: int):
    count = len(_COINS) + len(_UNIFORM)
    table = jax.random.uniform(keys.stream(key, "uniform"), (count, b))
    self._p, self._coins, self._uniform = p, table, table[len(_COINS) :]
    self._normal = jax.random.normal(
      keys.stream(key, "normal"), (len(_NORMAL), b)
    )

  def normal(self, name: str, spread: float, axis: str = "") -> jax.Array:
    """N(0, spread^2), or 0."""
    drawn = self._normal[_NORMAL.index(name + axis)]
    return self._made(name, spread * drawn, self._p)

  def uniform(
    self, name: str, most: float, axis: str = "", p: Scalar | None = None
  ) -> jax.Array:
    """U(-most, most), or 0."""
    drawn = self._uniform[_UNIFORM.index(name + axis)]
    chance = self._p if p is None else p
    return self._made(name, most * (2.0 * drawn - 1.0), chance)

  def choice(self, name: str, count: int) -> jax.Array:
    """One of 0 .. count - 1, or 0."""
    drawn = jnp.floor(count * self._uniform[_UNIFORM.index(name)])
    return self._made(name, drawn, self._p).astype(jnp.int32)

  def _made(self, name: str, value: jax.Array, p: Scalar) -> jax.Array:
    return jnp.where(self._coins[_COINS.index(name)] < p, value, 0.0)


def _blit(maps: warp.Maps, draw: _Draws, size: Sequence[int]) -> warp.Maps:
  mirrored = 1.0 - 2.0 * draw.choice("mirror", 2)
  quarters = draw.choice("quarters", 4)
  cos = jnp.array([1.0, 0.0, -1.0, 0.0])[quarters]
  sin = jnp.array([0.0, 1.0, 0.0, -1.0])[quarters]
  steps = [
    jnp.round(draw.uniform("pixels", 0.125, axis) * n)
    for axis, n in zip((" 0", " 1"), size, strict=True)
  ]
  for one in (
    warp.scale(jnp.ones_like(mirrored), mirrored),
    warp.linear((cos, -sin), (sin, cos)),
    warp.shift(*steps),
  ):
    maps = warp.after(maps, one)
  return maps


def _geometry(
  maps: warp.Maps, draw: _Draws, size: Sequence[int], p: Scalar
) -> warp.Maps:
  # Of two turns, either is made in p of all cases.
  each = 1.0 - jnp.sqrt(1.0 - jnp.clip(p, 0.0, 1.0))
  larger = jnp.exp2(draw.normal("scale", 0.2))
  wider = jnp.exp2(draw.normal("stretch", 0.2))
  steps = [
    draw.normal("fractions", 0.125, axis) * n
    for axis, n in zip((" 0", " 1"), size, strict=True)
  ]
  for one in (
    warp.scale(1.0 / larger, 1.0 / larger),
    warp.rotate(draw.uniform("first turn", math.pi, p=each)),
    warp.scale(wider, 1.0 / wider),
    warp.rotate(draw.uniform("second turn", math.pi, p=each)),
    warp.shift(*steps),
  ):
    maps = warp.after(maps, one)
  return maps


def _colour(x: Images, draw: _Draws) -> Images:
  """Each pixel x becomes A x + a, with A and a of the image."""
  grey = jnp.full(3, 1 / math.sqrt(3.0))
  along, whole = jnp.outer(grey, grey)[None], jnp.eye(3)[None]
  brightness = draw.normal("brightness", 0.2)
  contrast = jnp.exp2(draw.normal("contrast", 0.5))
  flipped = draw.choice("luma", 2)
  angle = draw.uniform("hue", math.pi)
  saturation = jnp.exp2(draw.normal("saturation", 1.0))

  def each(values: jax.Array) -> jax.Array:
    return values[:, None, None]

  cross = jnp.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3.0)
  cross = cross[None]
  linear = each(contrast) * whole
  for one in (
    whole - 2.0 * each(flipped) * along,
    each(jnp.cos(angle)) * (whole - along)
    + each(jnp.sin(angle)) * cross
    + along,
    along + each(saturation) * (whole - along),
  ):
    linear = one @ linear
  step = (linear * each(brightness)).sum(axis=2)
  if x.shape[3] == 1:  # a grey pixel is three equal ones, read by their mean
    gain, add = linear.sum(axis=2).mean(axis=1), step.mean(axis=1)
    return each(gain)[..., None] * x + each(add)[..., None]
  moved = jnp.einsum(
    "bij,bhwj->bhwi", linear, x, precision=jax.lax.Precision.HIGHEST
  )
  return moved + step[:, None, None]

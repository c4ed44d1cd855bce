# SPDX-License-Identifier: Apache-2.0
"""E2GAN, the searched generator of Tian et al. 2020 (arXiv:2007.09180).

A generator is a dense layer to the first grid, one cell for each doubling of
the sides, and batch normalisation, relu, 3x3, tanh. A cell is

  h = block(up(x)) + sum over skips of 1x1(up(h of an earlier cell))
  y = block(h)     + 1x1(up(x)) with a shortcut

where a block is `post`, relu(norm(conv)), or `pre`, conv(relu(norm)) (the
up-sampling then stands before the convolution), norm is `batch`, `instance` or
`none`, and up is `bilinear`, `nearest` or `deconv`, a 2x2 convolution
transposed, of stride 2. A cell is named by these words, as in

  "post batch bilinear shortcut skip0"

with skip0, skip1, .. the cells that it takes h from: the space of the search
(AutoGAN's, Gong et al. 2019). `PUBLISHED` are the authors' cells for CIFAR-10:
the vector 0 1 0 1, 0 1 2 1 0, 0 1 0 1 2 of their repository, whose last number
means h of the first cell by the repository's reading of its bits.

The discriminator is the residual one of SN-GAN (Miyato et al. 2018), with no
bias at the logit. What is inferred: with classes, which the authors do not
have, batch normalisation is by class and the logit has a projection; at other
sizes than 32 the three cells start from another grid (8x8 from a single pixel).
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from diffmem.arrays import Float, Int, Key
from diffmem.models import layers, residual_gan
from diffmem.models.choices import choose
from diffmem.models.gan_layers import (
  EPSILON,
  BatchNorm,
  Conv,
  Dense,
  Grid,
  Recipe,
  blur,
)

PLAIN = Recipe(init="glorot", outer="glorot", spectral=False)
SPECTRAL = Recipe(init="glorot", outer="glorot", spectral=True)

PUBLISHED = (
  "post batch bilinear shortcut",
  "post batch deconv shortcut",
  "post batch bilinear shortcut skip0",
)
WORDS = {
  "order": ("post", "pre"),
  "norm": ("batch", "instance", "none"),
  "up": ("bilinear", "nearest", "deconv"),
}


@dataclasses.dataclass(frozen=True)
class Plan:
  """What the words of a cell mean."""

  order: str
  norm: str
  up: str
  shortcut: bool
  skips: tuple[int, ...]

  @classmethod
  def of(cls, words: str, index: int) -> "Plan":
    """The plan of the cell at `index`; ValueError with what is wrong."""
    order, norm, up, *rest = [*words.split(), "", "", ""][:3] + words.split()[
      3:
    ]
    for (name, options), word in zip(
      WORDS.items(), (order, norm, up), strict=True
    ):
      choose(f"{name} of the cell {words!r}", word, options)
    extras = ("shortcut", *(f"skip{i}" for i in range(index)))
    for word in rest:
      choose(f"word of the cell {words!r}", word, extras)
    skips = tuple(i for i in range(index) if f"skip{i}" in rest)
    return cls(order, norm, up, "shortcut" in rest, skips)


class Up(nnx.Module):
  """Twice the sides `times` times, by one of the three ways."""

  def __init__(
    self, channels: int, kind: str, times: int, *, draws: layers.Draws
  ):
    self.kind, self.times = kind, times
    count = times if kind == "deconv" else 0
    self.layers = nnx.Dict(
      {f"deconv_{i}": Deconv(channels, draws=draws) for i in range(count)}
    )

  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    if self.kind == "bilinear" and self.times > 1:
      b, h, w, c = x.shape
      scale = 2**self.times
      return jax.image.resize(x, (b, h * scale, w * scale, c), "bilinear")
    for i in range(self.times):
      if self.kind == "deconv":
        x = self.layers[f"deconv_{i}"](x)
      else:
        x = layers.double(x)
    return blur(x, "edge") if self.kind == "bilinear" else x


class Deconv(nnx.Module):
  """A transposed 2x2 convolution of stride 2: every pixel becomes 2 x 2."""

  def __init__(self, channels: int, *, draws: layers.Draws):
    self.kernel = nnx.Param(draws.kernel((2, 2, channels, channels), False))
    self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    b, h, w, c = x.shape
    y = jnp.einsum("bhwi,uvio->bhuwvo", x, self.kernel[...])
    y = y.reshape(b, 2 * h, 2 * w, c)
    return y + self.bias[...].reshape(1, 1, 1, -1)


class Block(nnx.Module):
  """A convolution after or before normalisation and relu."""

  def __init__(
    self,
    channels: int,
    plan: Plan,
    up: bool,
    classes: int | None,
    *,
    draws: layers.Draws,
  ):
    self.order, self.kind = plan.order, plan.norm
    self.up = Up(channels, plan.up, int(up), draws=draws)
    self.conv = Conv(channels, channels, PLAIN, draws=draws)
    self.norm = (
      BatchNorm(channels, classes=classes, draws=draws)
      if plan.norm == "batch"
      else None
    )

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    cond: Int[Array, " b"] | None,
    train: bool,
  ) -> Float[Array, "b y x c"]:
    if self.order == "post":
      return self._normalised(self.conv(self.up(x), train), cond, train)
    return self.conv(self.up(self._normalised(x, cond, train)), train)

  def _normalised(self, x, cond, train: bool):
    if self.norm is not None:
      x = self.norm(x, cond, train)
    elif self.kind == "instance":
      x = jax.nn.standardize(x, axis=(1, 2), epsilon=EPSILON)
    return jax.nn.relu(x)


class Cell(nnx.Module):
  """One cell of the generator: x, and h of earlier cells -> (h, y)."""

  def __init__(
    self,
    channels: int,
    plan: Plan,
    index: int,
    classes: int | None,
    *,
    draws: layers.Draws,
  ):
    def pointwise():
      return Conv(channels, channels, PLAIN, size=1, draws=draws)

    self.plan = plan
    self.first = Block(channels, plan, True, classes, draws=draws)
    self.second = Block(channels, plan, False, classes, draws=draws)
    self.shortcut = pointwise() if plan.shortcut else None
    self.up = Up(channels, plan.up, 1, draws=draws) if plan.shortcut else None
    self.skips = nnx.Dict({f"skip_{i}": pointwise() for i in plan.skips})
    self.skip_ups = nnx.Dict(
      {
        f"up_{i}": Up(channels, plan.up, index - i, draws=draws)
        for i in plan.skips
      }
    )

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    earlier: Sequence[Float[Array, "b _ _ c"]],
    cond: Int[Array, " b"] | None,
    train: bool,
  ) -> tuple[Float[Array, "b y x c"], Float[Array, "b y x c"]]:
    h = self.first(x, cond, train)
    for i in self.plan.skips:
      wide = self.skip_ups[f"up_{i}"](earlier[i])
      h = h + self.skips[f"skip_{i}"](wide, train)
    y = self.second(h, cond, train)
    if self.shortcut is not None and self.up is not None:
      y = y + self.shortcut(self.up(x), train)
    return h, y


class Generator(nnx.Module):
  """z [b latent], cond [b] or None -> images [b h w c] in [-1, 1].

  Knobs:
    width: channels of all cells.
    cells: their words, one cell for each doubling; see the module's text.
  """

  def __init__(
    self,
    shape: tuple[int, int, int],
    num_classes: int | None,
    latent: int,
    draws: layers.Draws,
    *,
    width: int = 256,
    cells: Sequence[str] = PUBLISHED,
  ):
    residual_gan.check_width("width", width)
    self.grid = Grid.of(shape, len(cells))
    pixels = self.grid.bottom[0] * self.grid.bottom[1]
    self.first = Dense(latent, pixels * width, PLAIN, draws=draws)
    self.cells = nnx.Dict(
      {
        f"cell_{i}": Cell(width, Plan.of(words, i), i, num_classes, draws=draws)
        for i, words in enumerate(cells)
      }
    )
    self.norm = BatchNorm(width, draws=draws)
    self.out = Conv(width, shape[2], PLAIN, draws=draws)

  def __call__(
    self,
    z: Float[Array, "b k"],
    cond: Int[Array, " b"] | None,
    key: Key[Array, ""] | None,
    train: bool,
  ) -> Float[Array, "b h w c"]:
    del key  # nothing is drawn
    x = self.first(z, train).reshape(len(z), *self.grid.bottom, -1)
    earlier = []
    for i in range(len(self.cells)):
      h, x = self.cells[f"cell_{i}"](x, earlier, cond, train)
      earlier.append(h)
    x = jax.nn.relu(self.norm(x, None, train))
    return self.grid.crop(jnp.tanh(self.out(x, train)))


class Discriminator(residual_gan.Discriminator):
  """See `residual_gan.Discriminator`."""

  RECIPE = SPECTRAL
  BIAS = False

# SPDX-License-Identifier: Apache-2.0
"""Residual GANs: BigGAN (Brock et al. 2019) and the ResNet of WGANs.

A generator's block, up-sampling u, normalisation n, and a discriminator's, of
means m over 2 x 2 pixels where it halves:

  u(x) -> 1x1  +  3x3(relu(n(3x3(u(relu(n(x)))))))
  m(1x1(x))    +  m(3x3(relu(3x3(relu(x)))))

The first block of a discriminator has no first relu. A flat block has no 1x1.

  generator      dense to the first grid; blocks; n, relu, 3x3, tanh
  discriminator  halving blocks until no side is above 8, one at the least; two
                 flat blocks; h = relu summed (or averaged) over pixels;
                 logit = w h + b, and embedding(class) h where there are classes
                 (projection, Miyato and Koyama 2018)

BigGAN (arXiv:1809.11096): spectral normalisation of all kernels but tables of
classes; batch normalisation by class. With `shared`, its gain and bias are
linear in one embedding of the class; with `hierarchical`, z is cut in equal
chunks, the first for the first grid, one more for each block's normalisation.
Without classes or chunks batch normalisation is plain.

ResNet (Gulrajani et al. 2017, arXiv:1704.00028, appendix C): none of these;
no normalisation in the critic.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from diffmem.arrays import Float, Int, Key
from diffmem.models import layers
from diffmem.models.gan_layers import (
  BatchNorm,
  Conv,
  Dense,
  Grid,
  Recipe,
  Weight,
  halve,
)

BIGGAN = Recipe(init="normal", outer="normal", spectral=True)
RESNET = Recipe(init="he", outer="glorot", spectral=False)


class UpBlock(nnx.Module):
  """A generator's block: twice the sides."""

  def __init__(
    self,
    channels: int,
    recipe: Recipe,
    *,
    classes: int | None,
    features: int,
    draws: layers.Draws,
  ):
    def norm():
      return BatchNorm(
        channels,
        classes=classes,
        features=features,
        recipe=recipe,
        draws=draws,
      )

    self.norm1, self.norm2 = norm(), norm()
    self.conv1 = Conv(channels, channels, recipe, draws=draws)
    self.conv2 = Conv(channels, channels, recipe, draws=draws)
    self.skip = Conv(channels, channels, recipe, size=1, draws=draws)

  def __call__(
    self, x: Float[Array, "b h w c"], condition, train: bool
  ) -> Float[Array, "b y x c"]:
    y = layers.double(jax.nn.relu(self.norm1(x, condition, train)))
    y = jax.nn.relu(self.norm2(self.conv1(y, train), condition, train))
    # A 1x1 convolution and nearest up-sampling may change places.
    return self.conv2(y, train) + layers.double(self.skip(x, train))


class DownBlock(nnx.Module):
  """A discriminator's block; halves the sides or keeps them."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    recipe: Recipe,
    *,
    first: bool,
    down: bool,
    draws: layers.Draws,
  ):
    self.first, self.down = first, down
    self.conv1 = Conv(inputs, outputs, recipe, draws=draws)
    self.conv2 = Conv(outputs, outputs, recipe, draws=draws)
    learnt = down or inputs != outputs
    self.skip = (
      Conv(inputs, outputs, recipe, size=1, draws=draws) if learnt else None
    )

  def __call__(
    self, x: Float[Array, "b h w i"], train: bool
  ) -> Float[Array, "b y x o"]:
    y = x if self.first else jax.nn.relu(x)
    y = self.conv2(jax.nn.relu(self.conv1(y, train)), train)
    if self.down:
      # Means first: the 1x1 convolution then sees a quarter of the pixels.
      x, y = halve(x), halve(y)
    return y + (x if self.skip is None else self.skip(x, train))


class Generator(nnx.Module):
  """z [b latent], cond [b] or None -> images [b h w c] in [-1, 1].

  Knobs:
    width: channels of all blocks.
    shared: length of one embedding of the class for all normalisations; None
      gives each normalisation a table of its own.
    hierarchical: whether every block sees a chunk of z.
  """

  RECIPE = BIGGAN

  def __init__(
    self,
    shape: tuple[int, int, int],
    num_classes: int | None,
    latent: int,
    draws: layers.Draws,
    *,
    width: int = 256,
    shared: int | None = None,
    hierarchical: bool = False,
  ):
    check_width("width", width)
    self.grid, recipe = Grid.of(shape), self.RECIPE
    count = self.grid.doublings
    chunks = count + 1 if hierarchical else 1
    if latent % chunks:
      raise ValueError(
        f"latent={latent} does not divide into {chunks} chunks, one for the "
        "first grid and one for each block; choose a multiple"
      )
    self.chunk = latent // chunks
    self.hierarchical = hierarchical
    self.table = (
      nnx.Param(draws.normal((num_classes, shared), 0.02))
      if num_classes and shared
      else None
    )
    features = (shared or 0) if num_classes else 0
    if hierarchical and num_classes and not shared:
      raise ValueError(
        "hierarchical=True with classes, and shared=None; expected the length "
        "of the embedding that is joined with the chunks"
      )
    if hierarchical:
      features += self.chunk
    pixels = self.grid.bottom[0] * self.grid.bottom[1]
    self.first = Dense(self.chunk, pixels * width, recipe, draws=draws)
    self.blocks = nnx.Dict(
      {
        f"block_{i}": UpBlock(
          width, recipe, classes=num_classes, features=features, draws=draws
        )
        for i in range(count)
      }
    )
    self.norm = BatchNorm(width, draws=draws)
    self.out = Conv(width, shape[2], recipe, outer=True, draws=draws)

  def __call__(
    self,
    z: Float[Array, "b k"],
    cond: Int[Array, " b"] | None,
    key: Key[Array, ""] | None,
    train: bool,
  ) -> Float[Array, "b h w c"]:
    del key  # nothing is drawn
    x = self.first(z[:, : self.chunk], train)
    x = x.reshape(len(z), *self.grid.bottom, -1)
    for i in range(self.grid.doublings):
      condition = self._condition(z, cond, i + 1)
      x = self.blocks[f"block_{i}"](x, condition, train)
    x = jax.nn.relu(self.norm(x, None, train))
    return self.grid.crop(jnp.tanh(self.out(x, train)))

  def _condition(self, z, cond, chunk: int):
    """What the normalisations of a block see: a vector, a class or nothing."""
    parts = [] if self.table is None else [self.table[...][cond]]
    if self.hierarchical:
      parts.append(z[:, chunk * self.chunk : (chunk + 1) * self.chunk])
    return jnp.concatenate(parts, axis=1) if parts else cond


class Discriminator(nnx.Module):
  """x [b h w c], cond [b] or None -> logits [b].

  Knobs:
    discriminator_width: channels of all blocks.
  """

  RECIPE = BIGGAN
  POOL = "sum"
  BIAS = True  # of the logit

  def __init__(
    self,
    shape: tuple[int, int, int],
    num_classes: int | None,
    latent: int,
    draws: layers.Draws,
    *,
    discriminator_width: int = 256,
  ):
    del latent
    check_width("discriminator_width", discriminator_width)
    width, recipe = discriminator_width, self.RECIPE
    self.grid = Grid.of(shape)
    side, halvings = max(self.grid.bottom) * 2**self.grid.doublings, 0
    while halvings < self.grid.doublings and (side > 8 or not halvings):
      side, halvings = side // 2, halvings + 1
    self.blocks = nnx.Dict(
      {
        f"block_{i}": DownBlock(
          width if i else shape[2],
          width,
          recipe,
          first=i == 0,
          down=i < halvings,
          draws=draws,
        )
        for i in range(halvings + 2)
      }
    )
    self.out = Dense(width, 1, recipe, bias=self.BIAS, draws=draws)
    # The matrix of which the spectral norm is taken is [classes width].
    self.embed = (
      Weight((num_classes, width), recipe.outer, recipe.spectral, draws=draws)
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
    x = self.grid.pad(x)
    for i in range(len(self.blocks)):
      x = self.blocks[f"block_{i}"](x, train)
    features = jax.nn.relu(x)
    pool = jnp.sum if self.POOL == "sum" else jnp.mean
    features = pool(features, axis=(1, 2))
    logits = self.out(features, train)[:, 0]
    if self.embed is not None:
      logits = logits + (self.embed(train)[cond] * features).sum(1)
    return logits


class ResNetGenerator(Generator):
  """See `Generator`."""

  RECIPE = RESNET


class ResNetDiscriminator(Discriminator):
  """See `Discriminator`; its features are averages over pixels."""

  RECIPE = RESNET
  POOL = "mean"


def check_width(name: str, width: int) -> None:
  """ValueError for a network without channels."""
  if width < 1:
    raise ValueError(f"{name}={width}; expected 1 channel or more")

# SPDX-License-Identifier: Apache-2.0
"""Differentiable augmentation of what a discriminator sees (DiffAugment).

Of every image, real and generated, with u ~ U(0, 1) drawn anew for each:

  color        x + u - 1/2;  then away from the mean of each pixel's channels
               by 2 u;  then away from the mean of the image by u + 1/2
  translation  moved by whole pixels, up to an eighth of the side; zeros enter
  cutout       a square of half the side, its middle anywhere, becomes zeros

(Zhao et al. 2020, arXiv:2006.10738, appendix; one, two or all three in turn.)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from diffmem import keys
from diffmem.arrays import Float, Key
from diffmem.train import gan_warp as warp

Images = Float[jax.Array, "b h w c"]


def color(x: Images, key: Key[jax.Array, ""]) -> Images:
  """Brightness, saturation and contrast, in this order."""
  u = jax.random.uniform(key, (3, len(x), 1, 1, 1))
  x = x + u[0] - 0.5
  grey = x.mean(axis=3, keepdims=True)
  x = (x - grey) * (2.0 * u[1]) + grey
  mean = x.mean(axis=(1, 2, 3), keepdims=True)
  return (x - mean) * (u[2] + 0.5) + mean


def translation(
  x: Images, key: Key[jax.Array, ""], *, ratio: float = 0.125
) -> Images:
  """A step of whole pixels, up to `ratio` of the side."""
  moved = []
  for axis, n in enumerate(x.shape[1:3]):
    most = int(n * ratio + 0.5)
    drawn = keys.stream(key, "step", axis)
    moved.append(jax.random.randint(drawn, (len(x),), -most, most + 1))
  maps = warp.shift(*(step.astype(x.dtype) for step in moved))
  return warp.affine(x, maps, mirror=False)


def cutout(x: Images, key: Key[jax.Array, ""], *, ratio: float = 0.5) -> Images:
  """A square of `ratio` of the side becomes zeros."""
  hidden = jnp.ones((len(x), 1, 1), bool)
  for axis, n in enumerate(x.shape[1:3]):
    side = int(n * ratio + 0.5)
    drawn = keys.stream(key, "middle", axis)
    middle = jax.random.randint(drawn, (len(x),), 0, n + 1 - side % 2)
    place = jnp.arange(n)[None] - middle[:, None] + side // 2
    inside = (place >= 0) & (place < side)
    hidden = hidden & jnp.expand_dims(inside, 2 - axis)
  return jnp.where(hidden[..., None], 0.0, x)


POLICIES = {"color": color, "translation": translation, "cutout": cutout}


def augment(
  x: Images, key: Key[jax.Array, ""], *, policy: Sequence[str]
) -> Images:
  """The images after each augmentation of the policy in turn."""
  for name in policy:
    x = POLICIES[name](x, keys.stream(key, name))
  return x


def check(policy: Sequence[str]) -> None:
  """ValueError unless every name is of an augmentation."""
  wrong = [name for name in policy if name not in POLICIES]
  if isinstance(policy, str) or not policy or wrong:
    raise ValueError(
      f"adversarial.augment.policy={policy!r}: give a list of "
      f"{', '.join(POLICIES)}"
    )

# SPDX-License-Identifier: Apache-2.0
"""What a super-resolution stage is given: a smaller image, with noise on it.

  low   = mean of each f x f block of x0               (area down-sampling)
  low_u = sqrt(ab_u) low + sqrt(1 - ab_u) eps,   u the level of augmentation

Noise conditioning augmentation (Ho et al. 2022, arXiv:2106.15282, section 4;
Saharia et al. 2022, arXiv:2205.11487, section 2.4): in training u is drawn
anew for each image, and the network is told it; so it learns not to trust
details of the low-resolution image, which in sampling the stage before made.
There one u is chosen; schedule index 0 adds next to nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float, Int
from diffmem.diffusion import process


def smaller(
  x: Float[AnyArray, "b h w c"], height: int
) -> Float[jax.Array, "b y x c"]:
  """Area down-sampling to `height` and the width that goes with it.

  Raises ValueError unless blocks are whole.
  """
  b, h, w, c = x.shape
  factor = check(h, w, height)
  blocks = jnp.asarray(x).reshape(b, height, factor, w // factor, factor, c)
  return blocks.mean(axis=(2, 4))


def check(h: int, w: int, height: int) -> int:
  """The factor from h x w down to `height`; ValueError unless it is whole."""
  if height < 1 or h % height or w % (h // height):
    raise ValueError(
      f"images of {h}x{w} cannot be averaged down to height {height}: choose "
      "a divisor of both sides"
    )
  return h // height


def augment(
  low: Float[AnyArray, "b y x c"],
  eps: Float[AnyArray, "b y x c"],
  level: Int[AnyArray, " b"],
  alpha_bar: Float[np.ndarray, " t"],
) -> dict[str, jax.Array]:
  """{"low": low_u, "level": u}, what the network is given beside x_t."""
  level = jnp.asarray(level, jnp.int32)
  return {
    "low": process.add_noise(low, eps, level, alpha_bar),
    "level": level,
  }

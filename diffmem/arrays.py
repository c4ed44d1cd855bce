# SPDX-License-Identifier: Apache-2.0
"""Array types, and the one conversion between pixels and model space.

Axis letters are fixed: b batch, h w c height width channels, t steps,
n queries, m references, k neighbours, d flattened pixels.

Stored images are uint8 in 0..255; models and attacks see float32 in [-1, 1]:

  x = pixel / 127.5 - 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, UInt8

__all__ = [
  "AnyArray",
  "Bool",
  "Float",
  "Int",
  "Key",
  "UInt8",
  "from_uint8",
  "to_uint8",
]

AnyArray = jax.Array | np.ndarray


def from_uint8(images: UInt8[AnyArray, "..."]) -> Float[jax.Array, "..."]:
  """Pixels 0..255 -> float32 in [-1, 1]."""
  return jnp.asarray(images, jnp.float32) / 127.5 - 1.0


def to_uint8(x: Float[jax.Array, "..."]) -> UInt8[jax.Array, "..."]:
  """[-1, 1] -> pixels 0..255: clipped, then rounded to the nearest level."""
  pixels = (jnp.clip(x.astype(jnp.float32), -1.0, 1.0) + 1.0) * 127.5
  return jnp.round(pixels).astype(jnp.uint8)

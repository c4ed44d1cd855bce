# SPDX-License-Identifier: Apache-2.0
"""Pixels as a vector: its l2 distance is the RMS of `distances`.

v = (pixel / 255 - 1/2) / sqrt(d),   |v(x) - v(y)| = rms(x, y),

d the number of values in an image.
"""

import numpy as np

from diffmem.arrays import Float, UInt8
from diffmem.features.protocol import Features


def create() -> Features:
  """Flattened, centred pixels."""
  return Features("pixels", embed, "l2", {})


def embed(images: UInt8[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b d"]:
  """float32 vectors of h * w * c values."""
  flat = images.reshape(len(images), -1).astype(np.float32)
  return (flat / 255 - 0.5) / np.float32(np.sqrt(flat.shape[1]))

# SPDX-License-Identifier: Apache-2.0
"""Pixels to model space and back."""

import jax.numpy as jnp
import numpy as np

from diffmem import arrays


def test_every_grey_level_survives_the_round_trip():
  pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  x = arrays.from_uint8(pixels)
  assert float(x.min()) == -1.0
  assert float(x.max()) == 1.0
  assert (np.asarray(arrays.to_uint8(x)) == pixels).all()


def test_values_outside_are_clipped_and_inside_rounded():
  x = jnp.array([-3.0, 3.0, 0.0039, -0.99608])
  assert arrays.to_uint8(x).tolist() == [0, 255, 128, 0]

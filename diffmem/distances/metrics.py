# SPDX-License-Identifier: Apache-2.0
"""What a distance is: the definition that every faster form must equal.

For two images x, y of d values (height * width * channels) in 0..255

  squared(x, y) = sum_i (x_i - y_i)^2             an exact integer
  rms(x, y)     = sqrt(squared / d) / 255         in [0, 1]

rms is the distance of Carlini et al., "Extracting Training Data from
Diffusion Models" (arXiv 2301.13188), on pixels scaled to [0, 1].

For float vectors, in float64, l2 = |x - y| and cosine = 1 - <x, y>/(|x| |y|).
"""

import numpy as np

from diffmem.arrays import AnyArray, Float, Int, UInt8


def squared(
  a: UInt8[np.ndarray, "n ..."], b: UInt8[np.ndarray, "m ..."]
) -> Int[np.ndarray, "n m"]:
  """Squared differences of every pair, in int64. Holds n * m * d numbers."""
  x = a.reshape(len(a), -1).astype(np.int64)
  y = b.reshape(len(b), -1).astype(np.int64)
  difference = x[:, None, :] - y[None, :, :]
  return np.sum(difference * difference, axis=-1)


def rms(
  squared: Int[AnyArray, "*shape"], d: int
) -> Float[np.ndarray, "*shape"]:
  """Squared differences over d values -> distance in [0, 1], float64."""
  return np.sqrt(np.asarray(squared, np.float64) / d) / 255.0


def l2(
  x: Float[np.ndarray, "*#shape d"], y: Float[np.ndarray, "*#shape d"]
) -> Float[np.ndarray, "*shape"]:
  """Euclidean distance of float32 vectors that broadcast, in float64."""
  return norms(np.subtract(x, y, dtype=np.float64))


def cosine(
  x: Float[np.ndarray, "*#shape d"], y: Float[np.ndarray, "*#shape d"]
) -> Float[np.ndarray, "*shape"]:
  """1 - the cosine of float32 vectors that broadcast, in float64.

  As |x - y|^2 / 2 of unit vectors: near-duplicates do not cancel.
  """
  x, y = x.astype(np.float64), y.astype(np.float64)
  x /= norms(x)[..., None]
  y /= norms(y)[..., None]
  difference = x - y
  difference *= difference
  return np.sum(difference, axis=-1) / 2


def norms(x: Float[np.ndarray, "*shape d"]) -> Float[np.ndarray, "*shape"]:
  """|x|; in float64, squares of float32 neither overflow nor vanish."""
  return np.sqrt(np.sum(np.square(x, dtype=np.float64), axis=-1))

# SPDX-License-Identifier: Apache-2.0
"""Sets of vectors that are compared: checked, and their squared distances."""

import numpy as np

from diffmem.arrays import Float

# Of |x|^2 + |y|^2: closer than that, two float64 vectors are one and the same.
ROUNDING = 1e-13


def check(
  name: str, vectors: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n d"]:
  """The vectors in float64; ValueError where they are not finite, or none."""
  vectors = np.asarray(vectors, np.float64)
  if vectors.ndim != 2 or 0 in vectors.shape:
    raise ValueError(
      f"{name} has shape {list(vectors.shape)}: expected vectors [n d]"
    )
  bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
  if len(bad):
    raise ValueError(
      f"{name} holds NaN or infinite values in {len(bad)} of {len(vectors)} "
      f"rows, first in row {bad[0]}: look at the weights of the features"
    )
  return vectors


def squared(
  one: Float[np.ndarray, "n d"], other: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
  """Squared Euclidean distances; exactly 0 between equal vectors."""
  norms = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None]
  found = norms - 2 * one @ other.T
  return np.where(found > ROUNDING * norms, found, 0.0)

# SPDX-License-Identifier: Apache-2.0
"""Precision and recall, density and coverage: where two sets of vectors lie.

With B_k(x) the closed ball around x that reaches to the k-th nearest other
vector of x's own set, real vectors x_i (m of them) and made ones y_j (n),

  precision  share of y_j in some B_k(x_i)     are the made ones like real ones
  recall     share of x_i in some B_k(y_j)     do they cover what real ones are
  density    mean over j of |{i: y_j in B_k(x_i)}| / k   precision, but an
             outlier among the real ones counts little; 1 where both sets are
             of one law, and no upper bound
  coverage   share of x_i with some y_j in B_k(x_i)      recall by real balls,
             which outliers among the made ones do not enlarge

(precision, recall: Kynkaanniemi et al. 2019, k = 3 there; density and
coverage: Naeem et al. 2020, k = 5 there.) All four depend on m
and n: compare at equal numbers.
"""

import numpy as np

from diffmem.arrays import Float, Int
from diffmem.quality.vectors import check, squared

PAIRS = 2**24  # distances held at once
TIES = 1e-9  # at the border of a ball two ways of summing may differ


def precision_recall(
  real: Float[np.ndarray, "m d"], made: Float[np.ndarray, "n e"], k: int = 3
) -> tuple[float, float]:
  """(precision, recall), both in 0..1.

  Raises ValueError for NaN, other dimensions, or sets of no more than k.
  """
  real, made = _checked(real, made, k)
  inside, _ = _inside(made, real, _radii(real, k))
  covered, _ = _inside(real, made, _radii(made, k))
  return float((inside > 0).mean()), float((covered > 0).mean())


def density_coverage(
  real: Float[np.ndarray, "m d"], made: Float[np.ndarray, "n e"], k: int = 5
) -> tuple[float, float]:
  """(density, in 0 and more, coverage, in 0..1).

  Raises ValueError for NaN, other dimensions, or sets of no more than k.
  """
  real, made = _checked(real, made, k)
  inside, reached = _inside(made, real, _radii(real, k))
  return float(inside.mean() / k), float((reached > 0).mean())


def _checked(real, made, k: int):
  real, made = check("real", real), check("made", made)
  if real.shape[1] != made.shape[1]:
    raise ValueError(
      f"vectors of {real.shape[1]} and of {made.shape[1]} values: expected "
      "one kind of features"
    )
  smallest = min(len(real), len(made))
  if not 1 <= k < smallest:
    raise ValueError(
      f"k = {k} neighbours in sets of {len(real)} and {len(made)} images: "
      f"expected 1 to {smallest - 1}"
    )
  centre = real.mean(axis=0, keepdims=True)
  return real - centre, made - centre


def _radii(points: Float[np.ndarray, "n d"], k: int) -> Float[np.ndarray, " n"]:
  """Squared distance of each to its k-th nearest other."""
  found = [
    # Itself is the nearest, at 0: the k-th other stands at place k.
    np.partition(squared(points[rows], points), k, axis=1)[:, k]
    for rows in _blocks(len(points), len(points))
  ]
  return np.concatenate(found)


def _inside(
  points: Float[np.ndarray, "n d"],
  centres: Float[np.ndarray, "m d"],
  radii: Float[np.ndarray, " m"],
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
  """Of each point the balls that it is in, of each ball its points."""
  balls, held = [], np.zeros(len(centres), np.int64)
  for rows in _blocks(len(points), len(centres)):
    within = squared(points[rows], centres) <= (radii * (1 + TIES))[None]
    balls.append(within.sum(axis=1))
    held += within.sum(axis=0)
  return np.concatenate(balls), held


def _blocks(n: int, m: int) -> list[slice]:
  step = max(1, PAIRS // m)
  return [slice(start, start + step) for start in range(0, n, step)]

# SPDX-License-Identifier: Apache-2.0
"""The Frechet distance of two sets of vectors, taken as Gaussians.

With means m, n and covariances S, T,

  F = |m - n|^2 + tr S + tr T - 2 tr (S^1/2 T S^1/2)^1/2

(Dowson & Landau 1982). On the features of one Inception network it is the FID
(Heusel et al. 2017); on others it is not, and numbers on different
features do not compare. From n images it comes out too large, by about c / n
with c growing with the dimensions: compare at equal n, and with two sets of
real images at that n.
"""

import numpy as np

from diffmem.arrays import Float
from diffmem.quality.vectors import check


def frechet(
  one: Float[np.ndarray, "n d"], other: Float[np.ndarray, "m e"]
) -> float:
  """F of two sets, in squared units of the features; 0 where they are equal.

  Raises:
    ValueError: NaN, other dimensions, or no more images than dimensions.
  """
  one, other = check("one", one), check("other", other)
  d = one.shape[1]
  if other.shape[1] != d:
    raise ValueError(
      f"vectors of {d} and of {other.shape[1]} values: expected one kind of "
      "features"
    )
  reason = too_few(min(len(one), len(other)), d)
  if reason is not None:
    raise ValueError(reason)
  return of_gaussians(
    one.mean(axis=0),
    np.cov(one, rowvar=False).reshape(d, d),
    other.mean(axis=0),
    np.cov(other, rowvar=False).reshape(d, d),
  )


def too_few(n: int, d: int) -> str | None:
  """Why n images say nothing of a covariance in d dimensions, or None."""
  if n > d:
    return None
  return (
    f"{n} images for vectors of {d} values: their covariance is singular and "
    "the Frechet distance would tell n more than the images; give more than "
    f"{d}, or features of fewer dimensions"
  )


def of_gaussians(
  mean: Float[np.ndarray, " d"],
  cov: Float[np.ndarray, "d d"],
  other_mean: Float[np.ndarray, " d"],
  other_cov: Float[np.ndarray, "d d"],
) -> float:
  """F of two Gaussians."""
  values, vectors = np.linalg.eigh(cov)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  inner = np.linalg.eigvalsh(root @ other_cov @ root)
  shared = np.sqrt(np.maximum(inner, 0)).sum()
  gap = ((mean - other_mean) ** 2).sum()
  found = gap + np.trace(cov) + np.trace(other_cov) - 2 * shared
  return float(max(found, 0.0))

# SPDX-License-Identifier: Apache-2.0
"""Clusters of generations: spherical k-means, and which clusters cohere.

With z the features of an image, less the mean of all where `centre` is set,
and of unit length,

  mu_k = sum of z in C_k, scaled to length 1;   C_k = {z: k = argmax <z, mu>}
  cohesion_k = mean of <z, mu_k> over C_k

(Dhillon & Modha 2001; the cohesion of Chen et al., arXiv 2410.02467, algorithm
1). Starts come from scikit-learn's k-means on the unit vectors, the best of
`restarts`. Clusters whose cohesion is below a threshold, or that have too few
images, are dropped; every image then has the label of the nearest centre that
is left, as there.
"""

import dataclasses
import warnings
from typing import Any

import numpy as np
import sklearn.cluster
from sklearn.exceptions import ConvergenceWarning

from diffmem.arrays import Float, Int

ROUNDS = 100  # of assignment and centring, at most


@dataclasses.dataclass(frozen=True)
class Clusters:
  """Clusters that were kept, most cohesive first, and what was dropped.

  Attributes:
    centres: unit vectors of the kept clusters [c d].
    cohesion, sizes: of the kept clusters, before images of dropped ones came
      to them [c].
    dropped_cohesion, dropped_sizes: of the others [e].
    labels: of every image, a row of centres [n].
    closeness: <z, centre> of every image to its centre [n].
  """

  centres: Float[np.ndarray, "c d"]
  cohesion: Float[np.ndarray, " c"]
  sizes: Int[np.ndarray, " c"]
  dropped_cohesion: Float[np.ndarray, " e"]
  dropped_sizes: Int[np.ndarray, " e"]
  labels: Int[np.ndarray, " n"]
  closeness: Float[np.ndarray, " n"]

  def __len__(self) -> int:
    return len(self.centres)


def unit(
  features: Float[np.ndarray, "n d"], *, centre: bool
) -> Float[np.ndarray, "n d"]:
  """Features of length 1, less their mean if `centre`; zeros stay zeros."""
  z = np.asarray(features, np.float64)
  z = z - z.mean(axis=0) if centre else z
  lengths = np.linalg.norm(z, axis=1, keepdims=True)
  return z / np.where(lengths > 0, lengths, 1.0)


def spherical(
  z: Float[np.ndarray, "n d"], *, clusters: int, restarts: int, seed: int
) -> tuple[Float[np.ndarray, "c d"], Int[np.ndarray, " n"]]:
  """(unit centres, assignment) of unit vectors; empty clusters vanish.

  Raises ValueError for fewer vectors than clusters, or fewer than 2 clusters.
  """
  if clusters < 2 or restarts < 1:
    raise ValueError(
      f"side.clusters = {clusters}, side.restarts = {restarts}: expected 2 or "
      "more clusters and 1 or more restarts"
    )
  if len(z) < clusters:
    raise ValueError(
      f"side.clusters = {clusters}, but there are {len(z)} synthetic images: "
      "raise side.synthetic or lower side.clusters"
    )
  with warnings.catch_warnings():
    # Fewer distinct images than clusters: the empty ones are left out below.
    warnings.simplefilter("ignore", ConvergenceWarning)
    start: Any = sklearn.cluster.KMeans  # its types know no count of starts
    found = start(clusters, n_init=restarts, random_state=seed).fit(z)
  labels = np.asarray(found.labels_, np.int64)
  for _ in range(ROUNDS):
    centres = _centres(z, labels)
    again = np.argmax(z @ centres.T, axis=1)
    if np.array_equal(again, labels):
      break
    labels = again
  centres = _centres(z, labels)
  return centres, np.unique(labels, return_inverse=True)[1].astype(np.int64)


def cluster(
  features: Float[np.ndarray, "n d"],
  *,
  clusters: int,
  restarts: int,
  cohesion: float,
  least: int,
  centre: bool,
  seed: int,
) -> Clusters:
  """Clusters of the features of synthetic images.

  Args:
    features: float [n d].
    clusters, restarts: of the k-means.
    cohesion: threshold, in [-1, 1]; least: images that a cluster must have.
    centre: take the mean of all features away first.
    seed: of the k-means.

  Raises:
    ValueError: fewer images than clusters, or fewer than two clusters are
      left: there would be nothing to tell apart.
  """
  z = unit(features, centre=centre)
  centres, assigned = spherical(
    z, clusters=clusters, restarts=restarts, seed=seed
  )
  sizes = np.bincount(assigned, minlength=len(centres))
  own = (z * centres[assigned]).sum(axis=1)
  each = np.bincount(assigned, own, minlength=len(centres)) / sizes
  keep = (each >= cohesion) & (sizes >= least)
  if keep.sum() < 2:
    left = "none is" if not keep.any() else "one alone is"
    raise ValueError(
      f"of {len(centres)} clusters, with cohesion from {each.min():.2f} to "
      f"{each.max():.2f} and {sizes.min()} to {sizes.max()} images, {left} "
      f"left by side.cohesion = {cohesion:g} and side.least = {least}; a "
      "classifier needs two: lower them, or choose other features"
    )
  kept = np.flatnonzero(keep)
  kept = kept[np.argsort(-each[kept], kind="stable")]
  near = z @ centres[kept].T
  labels = np.argmax(near, axis=1)
  return Clusters(
    centres=centres[kept],
    cohesion=each[kept],
    sizes=sizes[kept],
    dropped_cohesion=each[~keep],
    dropped_sizes=sizes[~keep],
    labels=labels,
    closeness=near[np.arange(len(z)), labels],
  )


def _centres(
  z: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "c d"]:
  """Unit sums of the clusters that have images."""
  present, labels = np.unique(labels, return_inverse=True)
  sums = np.zeros((len(present), z.shape[1]))
  np.add.at(sums, labels, z)
  lengths = np.linalg.norm(sums, axis=1, keepdims=True)
  return sums / np.where(lengths > 0, lengths, 1.0)

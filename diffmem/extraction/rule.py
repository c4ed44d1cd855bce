# SPDX-License-Identifier: Apache-2.0
"""When a generation counts as a training image: near, and nearer than usual.

With d_1 <= d_2 <= ... the distances of a generation to a set of images, and
i the image at d_1 (Carlini et al., arXiv 2301.13188, section 5.1)

  ratio = d_1 / (alpha * mean distance of the neighbourhood)

  centring "generation": the neighbourhood is the n images nearest to the
    generation, the match i among them, and the mean is over d_1 .. d_n;
  centring "training": it is the n images of the set nearest to i, itself
    left out, and the mean is over their distances to i.

  match  <=>  d_1 <= delta  and  ratio <= 1.

The ratio asks that the image stand out among its neighbours: near-duplicates
of it in training lower the mean a little, unlike a test of d_1 / d_2, which
they blind. delta is calibrated: on images in no training set, the smallest d_1
of each among the generations that pass the ratio, at a stated rate. It stays
below alpha times the mean distance of a typical such image (the median one) to
its n nearest others: beyond, where the calibration may have nothing to say,
unlike images are as near.
"""

import dataclasses

import numpy as np

from diffmem import stats
from diffmem.arrays import Bool, Float, Int
from diffmem.distances import metrics

CENTRINGS = ("generation", "training")


@dataclasses.dataclass(frozen=True)
class Rule:
  """delta in RMS; alpha > 0; neighbours n; centring of the neighbourhood."""

  delta: float
  alpha: float
  neighbours: int
  centring: str = "generation"

  def __post_init__(self):
    check(self.alpha, self.neighbours, self.centring)
    if not 0 <= self.delta <= 1:
      raise ValueError(f"delta = {self.delta}, expected an RMS in 0..1")


@dataclasses.dataclass(frozen=True)
class Nearest:
  """What the rule needs to know of each query.

  rows: of its nearest reference; distances: to that one; means: of the
  distances to its n nearest.
  """

  rows: Int[np.ndarray, " n"]
  distances: Float[np.ndarray, " n"]
  means: Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Searched:
  """A set of references as the generations see it.

  ids: of the references [m]; nearest: of the generations, rows into ids;
  centres: of each reference, the mean distance to its n nearest others [m].
  """

  ids: Int[np.ndarray, " m"]
  nearest: Nearest
  centres: Float[np.ndarray, " m"]


def check(alpha: float, neighbours: int, centring: str) -> None:
  """ValueError unless these make a rule."""
  if not alpha > 0:
    raise ValueError(f"alpha = {alpha}, expected a positive number such as 0.5")
  if neighbours < 1:
    raise ValueError(f"neighbours = {neighbours}, expected at least 1")
  if centring not in CENTRINGS:
    raise ValueError(
      f"centring = {centring!r}, expected one of {', '.join(CENTRINGS)}"
    )


def read_nearest(
  indices, squared, *, d: int, neighbours: int, block: int = 65536
) -> Nearest:
  """Reads a search of n queries, arrays or stores [n k], block by block.

  d: values in an image; neighbours: how many the mean is over.
  Raises ValueError when the search kept fewer.
  """
  n, k = squared.shape
  if k < neighbours:
    raise ValueError(
      f"the search kept {k} neighbours, extraction.neighbours needs "
      f"{neighbours}: search again with a larger distances.k, or lower it"
    )
  rows = np.empty(n, np.int64)
  nearest, means = np.empty(n), np.empty(n)
  for start in range(0, n, block):
    part = slice(start, min(start + block, n))
    distances = metrics.rms(squared[part], d)
    rows[part] = np.asarray(indices[part])[:, 0]
    nearest[part] = distances[:, 0]
    means[part] = distances[:, :neighbours].mean(axis=1)
  return Nearest(rows, nearest, means)


def leave_one_out(
  indices: Int[np.ndarray, "m k"],
  squared: Int[np.ndarray, "m k"],
  *,
  d: int,
  neighbours: int,
) -> Nearest:
  """Each image of a set as a query among the others.

  indices, squared: the search of a set in itself, at least n + 1 columns. An
  image is left out by its row: its duplicates stay.
  """
  m, k = indices.shape
  if k < neighbours + 1:
    raise ValueError(
      f"the search of the set in itself kept {k} neighbours, centring "
      f"'training' needs {neighbours + 1} with the image itself: search again "
      "with a larger distances.k, or lower extraction.neighbours"
    )
  own = indices == np.arange(m)[:, None]
  own[~own.any(axis=1), -1] = True  # behind more than k duplicates of it
  distances = metrics.rms(squared, d)[~own].reshape(m, k - 1)
  return Nearest(
    rows=indices[~own].reshape(m, k - 1)[:, 0],
    distances=distances[:, 0],
    means=distances[:, :neighbours].mean(axis=1),
  )


def centre_means(
  indices: Int[np.ndarray, "m k"],
  squared: Int[np.ndarray, "m k"],
  *,
  d: int,
  neighbours: int,
) -> Float[np.ndarray, " m"]:
  """Mean distance of each image of a set to its n nearest others."""
  return leave_one_out(indices, squared, d=d, neighbours=neighbours).means


def ratios(
  nearest: Nearest,
  centres: Float[np.ndarray, " m"],
  *,
  alpha: float,
  centring: str,
) -> Float[np.ndarray, " n"]:
  """The ratio of each query; an exact copy has 0, whatever surrounds it."""
  generation = centring == "generation"
  mean = nearest.means if generation else centres[nearest.rows]
  beyond = np.where(nearest.distances > 0, np.inf, 0.0)
  return np.divide(nearest.distances, alpha * mean, out=beyond, where=mean > 0)


def passes(
  nearest: Nearest, centres: Float[np.ndarray, " m"], rule: Rule
) -> Bool[np.ndarray, " n"]:
  """Which queries are matches of their nearest reference."""
  ratio = ratios(nearest, centres, alpha=rule.alpha, centring=rule.centring)
  return (nearest.distances <= rule.delta) & (ratio <= 1)


def best_distances(
  calibration: Searched, *, alpha: float, centring: str
) -> Float[np.ndarray, " m"]:
  """How near a generation comes to each id; inf where none does.

  Only generations count whose nearest the id is and that pass the ratio.
  """
  nearest = calibration.nearest
  near = ratios(nearest, calibration.centres, alpha=alpha, centring=centring)
  best = np.full(len(calibration.ids), np.inf)
  ok = near <= 1
  np.minimum.at(best, nearest.rows[ok], nearest.distances[ok])
  return best


def calibrate(
  calibration: Searched,
  *,
  alpha: float,
  neighbours: int,
  centring: str,
  false_match_rate: float,
  seed: int,
) -> tuple[Rule, stats.Calibration]:
  """The rule whose delta lets through `false_match_rate` of unseen ids."""
  check(alpha, neighbours, centring)
  best = best_distances(calibration, alpha=alpha, centring=centring)
  cap = min(alpha * float(np.median(calibration.centres)), 1.0) or 1.0
  found = stats.calibrate(best, false_match_rate, seed, cap=cap)
  return Rule(found.delta, alpha, neighbours, centring), found

# SPDX-License-Identifier: Apache-2.0
"""Matching scores of generations, in bands of a similarity or a distance.

With g(x, j) between generation x of N and reference j, over a band [a, b]
(Chen et al., arXiv 2410.02467, equations 6 to 9):

  AMS = 1/N |{x: best_j g(x, j) in [a, b]}|          of generations
  UMS = 1/N |union over x of {j: g(x, j) in [a, b]}| of distinct references

best is the largest similarity, or the smallest distance. AMS looks at the best
reference of x alone, UMS at every one in the band, so that UMS may be larger
and one reference may be counted in several bands; `ums_best` counts only the
best reference of each x. Cumulative bands reach from one end to the best value
there is. UMS falls with N even for a model that does not change: compare at
equal N, or by `budgets`, the expectation over smaller samples (Hurlbert 1971).

The interval of AMS is Clopper and Pearson's. That of UMS has the variance that
another N generations of the same model would give,

  var U = U (1 - U / U_all),   U_all = U + f1 (f1 - 1) / (2 (f2 + 1)),

U distinct references, f1 and f2 of them seen once and twice, U_all Chao's
estimate of all that the model can give (Colwell et al. 2012, equation 5 at the
full sample). Resampling generations would not do: a resample lacks a third of
them, and what is left once its bias is taken away is too narrow (its 95%
intervals covered 80%).

Normalised l2 of a generation, d_1 <= d_2 <= ... its distances (Carlini et al.,
arXiv 2301.13188, section 5.1, alpha = 1/2):

  g(x, j) = d_j / (1/2 mean(d_1 .. d_50)),   at most 2 for j = 1.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffmem import stats
from diffmem.arrays import Bool, Float, Int
from diffmem.distances import metrics

KINDS = ("distance", "similarity")


@dataclasses.dataclass(frozen=True)
class Near:
  """Each generation's best references, best first.

  rows: which [n k]; values: g [n k]; kind: "distance" or "similarity";
  references: how many there are in all.
  """

  rows: Int[np.ndarray, "n k"]
  values: Float[np.ndarray, "n k"]
  kind: str
  references: int

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f"kind = {self.kind!r}, expected one of {KINDS}")
    steps = np.diff(self.values, axis=1) * self.sign
    if self.values.size and steps.size and steps.min() < 0:
      raise ValueError(f"values of kind {self.kind!r} must come best first")

  @property
  def sign(self) -> int:
    """1 where small is near, -1 where large is."""
    return 1 if self.kind == "distance" else -1

  def __len__(self) -> int:
    return len(self.rows)


def normalised_l2(
  rows: Int[np.ndarray, "n k"],
  squared: Int[np.ndarray, "n k"],
  *,
  d: int,
  neighbours: int,
  references: int,
) -> Near:
  """The normalised l2 from a search of uint8 images of d values.

  Complete for every band below 2 (`neighbours` of them are searched, and the
  last is no nearer than their mean). Raises ValueError for fewer.
  """
  if squared.shape[1] < neighbours:
    raise ValueError(
      f"the search kept {squared.shape[1]} neighbours, the normalised l2 needs "
      f"{neighbours}: search with a larger k"
    )
  distances = metrics.rms(squared, d)
  mean = distances[:, :neighbours].mean(axis=1, keepdims=True)
  values = np.divide(
    distances, 0.5 * mean, out=np.zeros_like(distances), where=mean > 0
  )
  return Near(rows, values, "distance", references)


def inside(near: Near, band: tuple[float, float]) -> Bool[np.ndarray, "n k"]:
  """Which of the values lie in [a, b].

  Raises ValueError where the search ended inside the band: references that it
  did not keep might belong there.
  """
  a, b = band
  if not a <= b:
    raise ValueError(f"the band {tuple(band)} is empty: expected a <= b")
  found = (near.values >= a) & (near.values <= b)
  last = near.values[:, -1]
  open_end = last <= b if near.kind == "distance" else last >= a
  if near.rows.shape[1] < near.references and open_end.any():
    raise ValueError(
      f"{int(open_end.sum())} generations have more than {near.rows.shape[1]} "
      f"references up to the band {tuple(band)}: search with a larger k"
    )
  return found


def scores(
  near: Near, band: tuple[float, float], *, budgets: Sequence[int] = ()
) -> dict[str, Any]:
  """AMS and UMS of one band, with intervals, counts, and UMS at budgets."""
  return counted(near, inside(near, band), budgets=budgets)


def counted(
  near: Near,
  within: Bool[np.ndarray, "n k"],
  *,
  budgets: Sequence[int] = (),
) -> dict[str, Any]:
  """The same of any choice of pairs [n k], such as those a rule lets pass."""
  n, best = len(near), within[:, 0]
  unique, hits = np.unique(near.rows[within], return_counts=True)
  generations = int(best.sum())
  return {
    "generations": generations,
    "ams": generations / n,
    "ams_interval": stats.clopper_pearson(generations, n),
    "unique": len(unique),
    "ums": len(unique) / n,
    "ums_interval": _interval(hits, n),
    "ums_best": len(np.unique(near.rows[best, 0])) / n,
    "budgets": {
      str(budget): float(value)
      for budget, value in zip(
        budgets, stats.rarefaction(hits, n, list(budgets)), strict=True
      )
    },
  }


def banded(
  near: Near, bands: Mapping[str, tuple[float, float]], **options: Any
) -> dict[str, dict[str, Any]]:
  """{band: {"banded": scores, "cumulative": scores to the best value}}."""
  best = -np.inf if near.kind == "distance" else np.inf
  found = {}
  for name, (a, b) in bands.items():
    whole = (best, b) if near.kind == "distance" else (a, best)
    found[name] = {
      "banded": scores(near, (a, b), **options),
      "cumulative": scores(near, whole, **options),
    }
  return found


def percentile(near: Near) -> float:
  """Of best values, what 5% of generations are better than.

  The 95th percentile of similarity, the 5th of distance (Somepalli et al.,
  CVPR 2023).
  """
  share = 5 if near.kind == "distance" else 95
  return float(np.percentile(near.values[:, 0], share))


def nearest_ratio(
  near: Near, groups: Int[np.ndarray, " m"] | None = None
) -> Float[np.ndarray, " n"]:
  """d_1 / d_2 of each generation; below 1/3 counts as memorized.

  groups: a label of each reference; those that share one are duplicates, and
  d_2 is that of the first reference of another group (Yoon et al. 2023; two
  copies would else make the ratio 1). Where the search kept none, d_2 is the
  last distance that it kept, which makes the ratio too large, never too small.
  An exact copy has 0.
  """
  if near.kind != "distance" or near.rows.shape[1] < 2:
    raise ValueError("d_1 / d_2 needs distances to 2 references or more")
  labels = near.rows if groups is None else groups[near.rows]
  other = labels != labels[:, :1]
  other[:, -1] = True
  second = near.values[np.arange(len(near)), np.argmax(other, axis=1)]
  first = near.values[:, 0]
  beyond = np.where(first > 0, 1.0, 0.0)
  return np.divide(first, second, out=beyond, where=second > 0)


def _interval(hits: Int[np.ndarray, " u"], n: int) -> tuple[float, float]:
  """95%, of distinct references over n; hits: generations of each."""
  unique = len(hits)
  if not unique:
    return 0.0, stats.clopper_pearson(0, n)[1]
  once, twice = (int(np.count_nonzero(hits == f)) for f in (1, 2))
  every = unique + once * (once - 1) / (2 * (twice + 1))
  width = 1.96 * np.sqrt(unique * (1 - unique / every) if once else 0.0)
  return max(0.0, (unique - width) / n), (unique + width) / n

# SPDX-License-Identifier: Apache-2.0
"""Scores the banks of SIDE: members beside as many held-out images.

Each part of a bank (one method at one scale, n generations) is scored alone:

  bands   AMS and UMS of the normalised l2, banded and cumulative
          (`side_metrics`)
  rates   the same counts by the rule of extraction (`rule`), its delta set for
          this part on the calibration images alone, at a stated rate of false
          matches: of "generations" near one of them, or of their "ids" that
          are matched. Guidance draws images nearer to everything, so that
          equal thresholds would not be equal evidence.

and the 5th percentile of the normalised l2, and the share with d_1 / d_2 below
1/3, duplicates of a reference left aside.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from diffmem import distances
from diffmem.arrays import Float, Int, UInt8
from diffmem.data import SETS, Dataset, Split
from diffmem.distances import knn, metrics
from diffmem.extraction import rule, side_metrics
from diffmem.extraction import run as extraction
from diffmem.extraction.rule import Rule, Searched
from diffmem.extraction.side_metrics import Near
from diffmem.stats.rates import check_share

UNITS = ("generations", "ids")  # of a rate of false matches
THIRD = 1 / 3


@dataclasses.dataclass(frozen=True)
class References:
  """A set of images that generations are compared with, made ready.

  centres: mean distance of each to its n nearest others; duplicates: a label
  that near-duplicates share.
  """

  ids: Int[np.ndarray, " m"]
  index: knn.Index
  centres: Float[np.ndarray, " m"]
  duplicates: Int[np.ndarray, " m"]


def references(
  dataset: Dataset,
  split: Split,
  *,
  neighbours: int,
  duplicate: float,
  seed: int,
) -> dict[str, References]:
  """Members, held-out and calibration images; equal numbers of the first two.

  duplicate: distance up to which two references are duplicates.
  Raises ValueError for a split without one of them, or with too few images.
  """
  size = min(len(split.members), len(split.held_out))
  found = {}
  for name in SETS:
    ids = getattr(split, name)
    if name != "calibration" and len(ids) > size:
      chosen = np.random.default_rng(seed).choice(ids, size, replace=False)
      ids = np.sort(chosen)
    if len(ids) <= neighbours:
      raise ValueError(
        f"the split has {len(ids)} {name}, side needs more than its "
        f"scoring.neighbours = {neighbours} of each set: give more images or "
        "lower it"
      )
    images = dataset.take(ids)
    near = distances.pairs(images, threshold=duplicate)
    found[name] = References(
      ids,
      knn.Index(images),
      extraction.centres(images, neighbours),
      distances.groups(near, len(images)),
    )
  return found


def score(
  images: UInt8[np.ndarray, "n h w c"],
  sets: dict[str, References],
  *,
  neighbours: int,
  alpha: float,
  rates: Sequence[float],
  bands: dict[str, tuple[float, float]],
  budgets: Sequence[int],
  seed: int,
) -> dict[str, Any]:
  """{set: {"bands", "rates", "percentile", "ratio_third"}, "rates": deltas}.

  sets: of `references`; the other arguments are the config section
  side.scoring.
  """
  searched, near = {}, {}
  for name, part in sets.items():
    searched[name], near[name] = _search(images, part, neighbours)
  rules = {
    str(rate): dict(
      _rules(searched["calibration"], rate, alpha, neighbours, seed)
    )
    for rate in rates
  }
  found: dict[str, Any] = {
    "rules": {
      rate: {unit: one.delta for unit, one in both.items()}
      for rate, both in rules.items()
    }
  }
  for name in ("members", "held_out"):
    ratio = side_metrics.nearest_ratio(near[name], sets[name].duplicates)
    found[name] = {
      "references": len(sets[name].ids),
      "bands": side_metrics.banded(near[name], bands, budgets=budgets),
      "rates": {
        rate: {
          unit: _passed(searched[name], near[name], one, budgets)
          for unit, one in both.items()
        }
        for rate, both in rules.items()
      },
      "percentile": side_metrics.percentile(near[name]),
      "ratio_third": float(np.mean(ratio < THIRD)),
    }
  return found


def nearest(
  images: UInt8[np.ndarray, "n h w c"], part: References
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
  """(row, distance) of the nearest reference of each image."""
  rows, squared = part.index.search(images, 1)
  return rows[:, 0], metrics.rms(squared[:, 0], part.index.dims)


def _search(
  images: UInt8[np.ndarray, "n h w c"], part: References, neighbours: int
) -> tuple[Searched, Near]:
  rows, squared = part.index.search(images, neighbours)
  d = part.index.dims
  nearest = rule.read_nearest(rows, squared, d=d, neighbours=neighbours)
  near = side_metrics.normalised_l2(
    rows, squared, d=d, neighbours=neighbours, references=len(part.ids)
  )
  return Searched(part.ids, nearest, part.centres), near


def _rules(
  calibration: Searched, rate: float, alpha: float, neighbours: int, seed: int
) -> Iterator[tuple[str, Rule]]:
  """(unit, rule) at a rate of false matches of either unit."""
  check_share("side.scoring.rates", rate)
  ids, _ = rule.calibrate(
    calibration,
    alpha=alpha,
    neighbours=neighbours,
    centring="generation",
    false_match_rate=rate,
    seed=seed,
  )
  near = rule.ratios(
    calibration.nearest, calibration.centres, alpha=alpha, centring="generation"
  )
  away = np.where(near <= 1, calibration.nearest.distances, np.inf)
  allowed = int(rate * len(away))
  beyond = np.partition(away, allowed)[allowed]
  delta = min(float(np.nextafter(beyond, 0.0)), 1.0)
  yield "generations", Rule(delta, alpha, neighbours)
  yield "ids", ids


def _passed(
  searched: Searched, near: Near, one: Rule, budgets: Sequence[int]
) -> dict[str, Any]:
  best = Near(near.rows[:, :1], near.values[:, :1], near.kind, near.references)
  keep = rule.passes(searched.nearest, searched.centres, one)
  return side_metrics.counted(best, keep[:, None], budgets=budgets)

# SPDX-License-Identifier: Apache-2.0
"""The untargeted extraction attack, and the control beside its every number.

Each generation is compared with its nearest training image (`rule`); what is
counted are distinct training ids, each with its best generation, the nearest.
The same code searches as many held-out images, which no generation can have
been copied from: those counts are the false matches. (Carlini et al., arXiv
2301.13188, section 5.1; the control and the intervals are ours.)
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from diffmem import stats
from diffmem.arrays import Bool, Float, Int
from diffmem.extraction import rule as rules
from diffmem.extraction.rule import Nearest, Rule, Searched

BINS = 60  # of the histogram
BUDGETS = 32  # points of the yield curve


@dataclasses.dataclass(frozen=True)
class Found:
  """Distinct references, nearest first, each with its best generation.

  rows: of the references; generations: row of the best generation; hits: how
  many of the generations in question have this reference as their nearest.
  """

  rows: Int[np.ndarray, " u"]
  generations: Int[np.ndarray, " u"]
  distances: Float[np.ndarray, " u"]
  ratios: Float[np.ndarray, " u"]
  hits: Int[np.ndarray, " u"]

  def __len__(self) -> int:
    return len(self.rows)


@dataclasses.dataclass(frozen=True)
class Extraction:
  """Evidence of one attack; `results` is its JSON."""

  rule: Rule
  matches: Found
  near_misses: Found
  false_matches: Found
  held_out_ids: Int[np.ndarray, " m"]
  results: dict[str, Any]


def best_of_each(
  nearest: Nearest,
  ratios: Float[np.ndarray, " n"],
  keep: Bool[np.ndarray, " n"],
) -> Found:
  """The distinct references of the kept generations; ties to lower ids."""
  kept = np.flatnonzero(keep)
  rows, distances = nearest.rows[kept], nearest.distances[kept]
  order = np.lexsort((kept, distances, rows))
  rows, first, hits = np.unique(
    rows[order], return_index=True, return_counts=True
  )
  best = kept[order[first]]
  by_distance = np.lexsort((rows, nearest.distances[best]))
  best = best[by_distance]
  return Found(
    rows=rows[by_distance],
    generations=best,
    distances=nearest.distances[best],
    ratios=ratios[best],
    hits=hits[by_distance],
  )


def matches(searched: Searched, rule: Rule) -> Found:
  """The distinct references that generations match."""
  ratios = rules.ratios(
    searched.nearest,
    searched.centres,
    alpha=rule.alpha,
    centring=rule.centring,
  )
  keep = rules.passes(searched.nearest, searched.centres, rule)
  return best_of_each(searched.nearest, ratios, keep)


def near_misses(searched: Searched, rule: Rule, limit: int) -> Found:
  """The `limit` references nearest to a generation that none matches."""
  ratios = rules.ratios(
    searched.nearest,
    searched.centres,
    alpha=rule.alpha,
    centring=rule.centring,
  )
  matched = np.zeros(len(searched.ids), bool)
  matched[matches(searched, rule).rows] = True
  found = best_of_each(
    searched.nearest, ratios, ~matched[searched.nearest.rows]
  )
  columns = [getattr(found, f.name) for f in dataclasses.fields(Found)]
  return Found(*(column[:limit] for column in columns))


def extract(
  members: Searched,
  held_out: Searched,
  calibration: Searched,
  real: Nearest,
  *,
  copies: Int[np.ndarray, " m"],
  alpha: float,
  neighbours: int,
  centring: str,
  false_match_rate: float,
  seed: int,
  near: int = 48,
  control_members: Searched | None = None,
) -> Extraction:
  """Searches members and held-out images by one calibrated rule.

  Args:
    members: as the generations see them.
    held_out: likewise; no more of them than members.
    calibration: likewise; in no count.
    real: real held-out images as queries among the members.
    copies: how often each member is in the training set.
    alpha, neighbours, centring: of the rule; the other centring is reported
      beside it, with a delta of its own.
    false_match_rate: share of unseen ids that delta is to let through.
    seed: of the calibration's resampling.
    near: how many near misses to keep.
    control_members: as many members as held_out, where members has more.
  """
  calibrate = functools.partial(
    rules.calibrate,
    calibration,
    alpha=alpha,
    neighbours=neighbours,
    false_match_rate=false_match_rate,
    seed=seed,
  )
  rule, calibrated = calibrate(centring=centring)
  found, false = matches(members, rule), matches(held_out, rule)
  other, _ = calibrate(
    centring=next(c for c in rules.CENTRINGS if c != centring)
  )
  control = matches(control_members, rule) if control_members else found
  generated = len(members.nearest.rows)
  results = {
    "generated": generated,
    **counted(found, members),
    "planted": planted(found, copies),
    "held_out": counted(false, held_out)
    | {
      "real_matches": int(rules.passes(real, members.centres, rule).sum()),
      "real_searched": len(real.rows),
    },
    "control": {
      "searched": len(held_out.ids),
      "members": len(control),
      "held_out": len(false),
      "closer": closer(found, false),
    },
    "rule": described(rule, calibrated),
    "other_centring": _other(members, held_out, other),
    "yield": yield_curve(found, false, generated),
    "histogram": histogram(members.nearest, held_out.nearest),
  }
  misses = near_misses(members, rule, near)
  return Extraction(rule, found, misses, false, held_out.ids, results)


def _other(members: Searched, held_out: Searched, rule: Rule) -> dict:
  return {
    "name": rule.centring,
    "delta": rule.delta,
    "unique": len(matches(members, rule)),
    "held_out_unique": len(matches(held_out, rule)),
  }


def counted(found: Found, searched: Searched) -> dict[str, Any]:
  """How many distinct ids of how many, with the interval of the rate."""
  unique, total = len(found), len(searched.ids)
  return {
    "unique": unique,
    "unique_interval": stats.clopper_pearson(unique, total),
    "searched": total,
  }


def closer(found: Found, false: Found) -> int:
  """Members whose match is closer than every match of a held-out image."""
  nearest = false.distances.min(initial=np.inf)
  return int(np.count_nonzero(found.distances < nearest))


def described(rule: Rule, calibrated: stats.Calibration) -> dict[str, Any]:
  """The rule, how delta came about, and what it is expected to let through."""
  return {
    **dataclasses.asdict(rule),
    "delta_interval": calibrated.interval,
    "false_match_rate": calibrated.rate,
    "calibration": {
      "searched": calibrated.searched,
      "finite": calibrated.finite,
      "method": calibrated.method,
      "expected_held_out": calibrated.expected,
    },
  }


def planted(
  found: Found, copies: Int[np.ndarray, " m"]
) -> dict[str, list[int]]:
  """{copies: [ids found, ids planted]}, most copies first."""
  hit = copies[found.rows]
  return {
    str(c): [int(np.sum(hit == c)), int(np.sum(copies == c))]
    for c in np.unique(copies)[::-1]
  }


def yield_curve(
  members: Found, held_out: Found, generated: int
) -> dict[str, list]:
  """Unique ids against images generated: the mean over smaller samples."""
  budgets = np.unique(
    np.round(np.geomspace(1, generated, BUDGETS)).astype(np.int64)
  )
  return {
    "generated": budgets.tolist(),
    **{
      name: stats.rarefaction(found.hits, generated, budgets).tolist()
      for name, found in (("members", members), ("held_out", held_out))
    },
  }


def histogram(members: Nearest, held_out: Nearest) -> dict[str, list]:
  """Nearest distances of the generations to each set, in common bins."""
  largest = max(members.distances.max(), held_out.distances.max())
  edges = np.linspace(0, max(largest, 1e-6), BINS + 1)
  return {
    "edges": edges.tolist(),
    "members": np.histogram(members.distances, edges)[0].tolist(),
    "held_out": np.histogram(held_out.distances, edges)[0].tolist(),
  }

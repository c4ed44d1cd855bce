# SPDX-License-Identifier: Apache-2.0
"""Extraction where there are no held-out images: the training set is its own.

Were the model to draw fresh images of the same kind, and copy none, each would
lie as near to the training images as a training image lies to the others. So
each training image is taken as a query among the others (leave one out), and
delta is set where a stated share of them would be called copies. The unit of
that rate is the generation: among n honest ones n * rate are to be expected,
and the number of generations that match is tested against it,

  p = P(Binomial(n, rate) >= matching generations).

Near-duplicates within the training set make delta smaller than it need be, so
that copies may be missed; held-out images are better where they can be had.
"""

import numpy as np
import scipy.stats

from diffmem import stats
from diffmem.arrays import Int
from diffmem.extraction import attack
from diffmem.extraction import rule as rules
from diffmem.extraction.attack import Extraction
from diffmem.extraction.rule import Nearest, Rule, Searched

METHOD = "leave one out"


def calibrate(
  members: Searched,
  real: Nearest,
  *,
  alpha: float,
  neighbours: int,
  centring: str,
  false_match_rate: float,
  seed: int,
) -> tuple[Rule, stats.Calibration]:
  """The rule that lets through `false_match_rate` of the real images.

  members: as the generations see them; real: each of them among the others.
  Raises ValueError for centring "training": there the neighbourhood of a match
  holds the very image that stands for the generation.
  """
  if centring != "generation":
    raise ValueError(
      f"extraction.centring = {centring!r} needs held-out images: give "
      "data.held_out, or take 'generation'"
    )
  rules.check(alpha, neighbours, centring)
  ratio = rules.ratios(real, members.centres, alpha=alpha, centring=centring)
  best = np.where(ratio <= 1, real.distances, np.inf)
  cap = min(alpha * float(np.median(members.centres)), 1.0) or 1.0
  found = stats.calibrate(best, false_match_rate, seed, cap=cap)
  return Rule(found.delta, alpha, neighbours, centring), found


def extract(
  members: Searched,
  real: Nearest,
  *,
  copies: Int[np.ndarray, " m"],
  alpha: float,
  neighbours: int,
  centring: str,
  false_match_rate: float,
  seed: int,
  near: int = 48,
) -> Extraction:
  """Searches members by a rule calibrated on themselves.

  Args:
    members: as the generations see them.
    real: each member as a query among the others.
    copies: how often each member is in the training set.
    alpha, neighbours, centring: of the rule.
    false_match_rate: share of honest generations that delta is to let through.
    seed: of the calibration's resampling.
    near: how many near misses to keep.
  """
  rule, calibrated = calibrate(
    members,
    real,
    alpha=alpha,
    neighbours=neighbours,
    centring=centring,
    false_match_rate=false_match_rate,
    seed=seed,
  )
  found = attack.matches(members, rule)
  generated, matching = len(members.nearest.rows), int(found.hits.sum())
  null = scipy.stats.binom(generated, false_match_rate)
  nothing = {"unique": 0, "searched": 0, "unique_interval": None}
  results = {
    "generated": generated,
    **attack.counted(found, members),
    "planted": attack.planted(found, copies),
    "held_out": nothing,
    "control": {
      "method": METHOD,
      "searched": 0,
      "members": len(found),
      "held_out": 0,
      "rate": false_match_rate,
      "generations": matching,
      "expected": [
        float(null.mean()),
        *(float(x) for x in null.interval(0.9)),
      ],
      "p_value": float(null.sf(matching - 1)),
      "real_matches": int(rules.passes(real, members.centres, rule).sum()),
      "real_searched": len(real.rows),
    },
    "rule": attack.described(rule, calibrated) | {"calibrated_on": METHOD},
    "yield": attack.yield_curve(found, found, generated) | {"held_out": None},
    "histogram": attack.histogram(members.nearest, real)
    | {"second": "training images among the others"},
  }
  misses = attack.near_misses(members, rule, near)
  none = attack.best_of_each(
    real, np.zeros(len(real.rows)), np.zeros(len(real.rows), bool)
  )
  held_out_ids = np.zeros(0, np.int64)
  return Extraction(rule, found, misses, none, held_out_ids, results)

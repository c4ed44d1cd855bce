# SPDX-License-Identifier: Apache-2.0
"""What reconstructions tell: distances of groups of targets, and tests.

The distance of a target is the mean over the `keep` candidates ranked highest
(Carlini et al. 2023, section 5.3), over the hidden pixels alone. Where the
same targets were reconstructed by a model that saw them and by one that did
not, differences are paired: Wilcoxon's signed-rank test (1945). Groups of
different targets are compared by Mann and Whitney's (1947). Both one-sided:
nearer for what was seen. Intervals resample targets.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from diffmem import stats
from diffmem.arrays import Float
from diffmem.extraction.inpaint_plan import (
  HELD_OUT,
  NOT_SEEN,
  ONCE,
  PLANTED,
  SEEN,
  Task,
)

NEAR = (0.05, 0.1)  # RMS: a copy, and nearly one
PAIRS = ((SEEN, NOT_SEEN), (ONCE, HELD_OUT), (PLANTED, HELD_OUT))


@dataclasses.dataclass(frozen=True)
class Found:
  """Distances of one task, and the score of the candidate ranked first.

  top: the mean of the highest ranked; first: of the very highest; best: of
  the nearest of them; all: the mean of all candidates.
  """

  task: Task
  top: float
  first: float
  best: float
  all: float
  score: float


def summary(found: Sequence[Found], *, bootstrap: int, seed: int) -> dict:
  """Groups and tests, as results.json holds them."""
  rng = np.random.default_rng(seed)
  groups = {}
  for group in dict.fromkeys(f.task.group for f in found):
    of = [f for f in found if f.task.group == group]
    groups[group] = {
      "targets": len(of),
      **{
        key: _mean(np.array([getattr(f, key) for f in of]), bootstrap, rng)
        for key in ("top", "first", "best", "all")
      },
      "within": {
        str(near): _share(int(sum(f.first <= near for f in of)), len(of))
        for near in NEAR
      },
    }
  tests = [
    _test(a, b, found, bootstrap, rng)
    for a, b in PAIRS
    if a in groups and b in groups
  ]
  return {"groups": groups, "tests": tests}


def _test(
  a: str,
  b: str,
  found: Sequence[Found],
  bootstrap: int,
  rng: np.random.Generator,
) -> dict:
  """Whether targets of group a come nearer than those of group b."""
  near = {f.task.target: f.top for f in found if f.task.group == a}
  far = {f.task.target: f.top for f in found if f.task.group == b}
  one = {"of": a, "against": b}
  if set(near) == set(far):
    gaps = np.array([near[target] - far[target] for target in near])
    p: Any = 1.0
    if gaps.any():
      _, p = scipy.stats.wilcoxon(gaps, alternative="less")
    return one | {
      "test": "Wilcoxon signed-rank",
      "paired": True,
      "difference": _mean(gaps, bootstrap, rng),
      "nearer": _share(int((gaps < 0).sum()), len(gaps)),
      "p_value": float(p),
    }
  x, y = np.array(list(near.values())), np.array(list(far.values()))
  draws = [
    rng.choice(x, len(x)).mean() - rng.choice(y, len(y)).mean()
    for _ in range(bootstrap)
  ]
  _, p = scipy.stats.mannwhitneyu(x, y, alternative="less")
  return one | {
    "test": "Mann-Whitney",
    "paired": False,
    "difference": [x.mean() - y.mean(), *np.quantile(draws, [0.025, 0.975])],
    "nearer": None,
    "p_value": float(p),
  }


def _mean(
  values: Float[np.ndarray, " n"], bootstrap: int, rng: np.random.Generator
) -> list[float]:
  """[mean, low, high], 95%."""
  rows = rng.integers(len(values), size=(bootstrap, len(values)))
  low, high = np.quantile(values[rows].mean(1), [0.025, 0.975])
  return [float(values.mean()), float(low), float(high)]


def _share(k: int, n: int) -> dict:
  return {"count": k, "of": n, "interval": stats.clopper_pearson(k, n)}

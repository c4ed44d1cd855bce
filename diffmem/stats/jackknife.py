# SPDX-License-Identifier: Apache-2.0
"""Intervals of numbers that no formula gives one for: the grouped jackknife.

The images of every set fall at random into G groups. With v the number on all
images and v_g the same without group g (of every set),

  bias = (G - 1) (mean_g v_g - v)
  se^2 = (G - 1) / G sum_g (v_g - mean v)^2,   interval v +- t se,

t of Student's distribution with G - 1 degrees of freedom (Quenouille 1956;
Shao & Tu 1995, section 2.3). No image is counted twice, as in a bootstrap: a
twin at distance 0 would shrink what is measured by nearest neighbours, and
raise a Frechet distance. The value is never moved by its bias: that is told
beside it.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats

from diffmem.arrays import Float
from diffmem.stats.rates import check_share


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number, the ends of its interval, standard error and bias."""

  value: float
  low: float
  high: float
  se: float
  bias: float

  def ends(self, least: float = -np.inf, most: float = np.inf) -> list[float]:
    """[value, low, high], the ends no further than the number can go."""
    return [self.value, max(self.low, least), min(self.high, most)]


def jackknife(
  statistic: Callable[..., Sequence[float]],
  sets: Sequence[Float[np.ndarray, "..."]],
  *,
  groups: int = 20,
  level: float = 0.95,
  seed: int = 0,
) -> list[Estimate]:
  """The numbers that `statistic(*sets)` gives, with intervals over images.

  Args:
    statistic: of the sets, or of parts of them; gives the numbers.
    sets: the images of each set along the first axis.
    groups: how many are left out in turn.
    level: of the intervals.
    seed: of the groups.

  Raises:
    ValueError: fewer than two groups, or a set with fewer images.
  """
  check_share("level", level)
  smallest = min(map(len, sets))
  if not 2 <= groups <= smallest:
    raise ValueError(
      f"{groups} groups of images: expected 2 to {smallest}, the images of "
      "the smallest set"
    )
  rng = np.random.default_rng(seed)
  places = [rng.permutation(len(s)) % groups for s in sets]
  value = np.asarray(statistic(*sets), np.float64)
  left = np.array(
    [
      statistic(*(s[p != g] for s, p in zip(sets, places, strict=True)))
      for g in range(groups)
    ],
    np.float64,
  )
  mean = left.mean(axis=0)
  bias = (groups - 1) * (mean - value)
  se = np.sqrt((groups - 1) / groups * ((left - mean) ** 2).sum(axis=0))
  half = se * scipy.stats.t.ppf((1 + level) / 2, groups - 1)
  columns = (value, value - half, value + half, se, bias)
  return [Estimate(*map(float, row)) for row in zip(*columns, strict=True)]

# SPDX-License-Identifier: Apache-2.0
"""Counts of ids: exact rates, rarefaction, overlap of two sets.

Overlap within strata (ids of one number of copies each): in stratum s of N_s
ids, a_s and b_s drawn apart have a hypergeometric number in common; what they
have in common in all is a sum of independent such numbers.

Rarefaction (Hurlbert 1971). Of N generations, n_i match id i. Among M of
them drawn without replacement, E[unique] = sum_i 1 - C(N - n_i, M) / C(N, M).
"""

from collections.abc import Sequence

import numpy as np
import scipy.special
import scipy.stats

from diffmem.arrays import AnyArray, Float, Int


def check_share(name: str, value: float) -> None:
  """ValueError unless 0 < value < 1."""
  if not 0 < value < 1:
    raise ValueError(f"{name} is {value}: expected more than 0, less than 1")


def clopper_pearson(
  k: int, n: int, *, level: float = 0.95
) -> tuple[float, float]:
  """Exact interval of a rate of k in n; (0, 1) when n is 0."""
  check_share("level", level)
  if not 0 <= k <= n:
    raise ValueError(f"{k} of {n}: expected 0 <= k <= n")
  if n == 0:
    return 0.0, 1.0
  ends = scipy.stats.binomtest(int(k), int(n)).proportion_ci(level, "exact")
  return float(ends.low), float(ends.high)


def rarefaction(
  counts_per_id: Int[AnyArray, " m"],
  total: int,
  budgets: Int[AnyArray, " s"] | Sequence[int],
) -> Float[np.ndarray, " s"]:
  """Unique ids to expect among each budget of the `total` generations.

  counts_per_id: how many of the generations match each id.
  """
  hits, ids = np.unique(np.asarray(counts_per_id), return_counts=True)
  budgets = np.asarray(budgets, np.int64)
  if hits.size and not 0 <= hits[0] <= hits[-1] <= total:
    raise ValueError(
      f"an id has {hits[0] if hits[0] < 0 else hits[-1]} matching "
      f"generations: expected 0 to total={total}"
    )
  if budgets.size and not 0 <= budgets.min() <= budgets.max() <= total:
    raise ValueError(
      f"budgets run from {budgets.min()} to {budgets.max()}: expected 0 to "
      f"total={total}, more generations cannot be extrapolated"
    )
  rest = total - hits[:, None]
  left = np.maximum(rest - budgets, 0)
  log = scipy.special.gammaln
  missed = np.exp(
    log(rest + 1.0)
    - log(left + 1.0)
    - log(total + 1.0)
    + log(total - budgets + 1.0)
  )
  missed = np.where(rest >= budgets, missed, 0.0)
  return ids @ (1.0 - missed)


def hypergeometric_tail(
  overlap: int, a: int, b: int, population: int
) -> tuple[float, float]:
  """(log10 P(at least `overlap` in common), expected number in common).

  Two sets of `a` and `b` ids, drawn apart from `population` ids.
  """
  if not 0 <= max(a, b) <= population or min(a, b) < 0:
    raise ValueError(
      f"sets of {a} and {b} ids of a population of {population}: expected "
      "0 <= a, b <= population"
    )
  if not 0 <= overlap <= min(a, b):
    raise ValueError(f"overlap is {overlap}: expected 0 to {min(a, b)}")
  common = np.arange(overlap, min(a, b) + 1)
  terms = scipy.stats.hypergeom.logpmf(common, population, a, b)
  log_p = np.asarray(scipy.special.logsumexp(terms))
  expected = a * b / population if population else 0.0
  return min(0.0, float(log_p) / np.log(10)), expected


def overlap_tail(
  overlap: int, strata: Sequence[tuple[int, int, int]]
) -> tuple[float, float]:
  """`hypergeometric_tail` where ids are drawn apart within each stratum.

  strata: (a, b, population) of each; `overlap` is in all of them together.
  """
  if len(strata) == 1:
    return hypergeometric_tail(overlap, *strata[0])
  log_mass, expected = np.zeros(1), 0.0
  for a, b, population in strata:
    expected += hypergeometric_tail(0, a, b, population)[1]
    common = np.arange(min(a, b) + 1)
    terms = scipy.stats.hypergeom.logpmf(common, population, a, b)
    # The sum's mass, in logarithms: tails underflow.
    grid = np.full((len(log_mass), len(log_mass) + min(a, b)), -np.inf)
    for i, mass in enumerate(log_mass):
      grid[i, i : i + len(terms)] = mass + terms
    log_mass = np.asarray(scipy.special.logsumexp(grid, axis=0))
  if not 0 <= overlap < len(log_mass):
    raise ValueError(f"overlap is {overlap}: expected 0 to {len(log_mass) - 1}")
  log_p = np.asarray(scipy.special.logsumexp(log_mass[overlap:]))
  return min(0.0, float(log_p) / np.log(10)), expected

# SPDX-License-Identifier: Apache-2.0
"""Claims about training: one number for each seed, and many claims at once.

With d_1 .. d_n what a claim says is positive, one of each training or pair of
trainings,

  t = mean(d) / (s / sqrt(n)),    p = P[T_{n-1} >= t]    (Student, one-sided)

and of m claims with p_(1) <= .. <= p_(m) the adjusted ones are, Holm 1979,

  max_{j <= i} min(1, (m - j + 1) p_(j)).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats

from diffmem.arrays import AnyArray, Float


@dataclasses.dataclass(frozen=True)
class Seeds:
  """What a claim's numbers say together.

  mean: of them; low, high: its two-sided interval (Student); positive: how many
  are above zero; p: that they come out so positive without any effect. The
  interval and p are None of a single number.
  """

  mean: float
  low: float | None
  high: float | None
  positive: int
  count: int
  p: float | None


def student(
  values: Float[AnyArray, " n"] | Sequence[int | float], *, level: float = 0.95
) -> Seeds:
  """The mean over seeds, its interval and its one-sided test.

  Where all values are equal, as exposures at their maximum, Student's p would
  be 0 or 1: it is then that of the signs, 2^-n where all are positive.

  Raises:
    ValueError: no values, or some are not finite.
  """
  values = np.asarray(values, np.float64)
  n = len(values)
  if not n or not np.isfinite(values).all():
    raise ValueError(f"values of seeds {values.tolist()}: expected finite ones")
  mean, positive = float(values.mean()), int(np.sum(values > 0))
  if n == 1:
    return Seeds(mean, None, None, positive, n, None)
  error = float(values.std(ddof=1) / np.sqrt(n))
  width = float(scipy.stats.t.ppf((1 + level) / 2, n - 1)) * error
  if error > 1e-12 * abs(mean):
    p = float(scipy.stats.t.sf(mean / error, n - 1))
  else:
    p = 2.0**-n if mean > 0 else 1.0
  return Seeds(mean, mean - width, mean + width, positive, n, p)


def holm(p: Sequence[int | float]) -> list[float]:
  """Adjusted probabilities of several claims, in their order (Holm 1979).

  Raises:
    ValueError: one is no probability.
  """
  values = np.asarray(p, np.float64)
  if not ((values >= 0) & (values <= 1)).all():
    raise ValueError(f"{list(p)}: expected probabilities, 0 to 1")
  order = np.argsort(values, kind="stable")
  factors = len(values) - np.arange(len(values))
  adjusted = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
  found = np.empty(len(values))
  found[order] = adjusted
  return found.tolist()

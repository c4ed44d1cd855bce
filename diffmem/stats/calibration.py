# SPDX-License-Identifier: Apache-2.0
"""At which distance a generation counts as a copy of a training image.

The threshold is set on a third part of the data, neither members nor the
held-out images that the audit reports on; `calibrate` has the equations.
"""

import dataclasses

import numpy as np

from diffmem.arrays import AnyArray, Float
from diffmem.stats.rates import check_share


@dataclasses.dataclass(frozen=True)
class Calibration:
  """A match threshold, its spread, and what it lets through.

  delta: declare a match when distance <= delta (and the ratio passes).
  interval: 90% of delta when the calibration ids are resampled.
  rate: the stated false-match rate per reference id.
  searched: calibration ids, m. finite: those with any distance at all.
  tail: how many smallest distances the tail rests on, k; 0 if not used.
  method: "order statistic", "tail" or "cap".
  expected: (mean, low, high) false matches among m other ids, 90%.
  """

  delta: float
  interval: tuple[float, float]
  rate: float
  searched: int
  finite: int
  tail: int
  method: str
  expected: tuple[float, float, float]


def calibrate(
  best_distances: Float[AnyArray, " m"],
  rate: float,
  seed: int,
  *,
  cap: float = 1.0,
  resamples: int = 1000,
) -> Calibration:
  """The distance at which an id outside training is matched at `rate`.

  best_distances: for each calibration id the smallest distance of a
  generation that passes the other tests of the rule; inf where none does.
  With X_(1) <= X_(2) <= .. these, sorted, and F their distribution:

  * rate >= 1/m: j = rate (m + 1); E F(X_(j)) = j / (m + 1) whatever F is.
    Between two order statistics delta is interpolated.
  * below, order statistics are silent and the lower tail is extrapolated as
    F(x) ~ x^theta from X_(k+1), as Weissman (1978) does with the estimator
    of Hill (1975), H = sum_{i<=k} log(X_(k+1) / X_(i)), theta ~ k / H:

      log delta = log X_(k+1) - s H,
      s = ((k + 1) / ((m + 1) rate))^(1/k) - 1.

    Weissman's s is (1/k) log(k / (m rate)), the limit for large k; there
    F(delta) averages above `rate`, because exp is convex. Here F(X_(k+1)) is
    Beta(k + 1, m - k) and, apart from it, theta H is Gamma(k), so that
    E F(delta) = (k + 1) / (m + 1) (1 + s)^-k = rate exactly.
    k is a tenth of the finite distances, at least 10 (all but one when there
    are fewer than 11). A single finite distance tells no theta: 1 is taken,
    smaller than images have, so delta errs on the small side.
  * delta never exceeds `cap` (1 = no image is further), which is what is left
    when no distance, or too few for the rate, is finite.

  delta is put just below a tie that would let too many through. Raises
  ValueError where copies at distance 0 alone exceed the rate: no threshold
  can help, calibration and training images overlap.
  """
  distances = np.asarray(best_distances, np.float64)
  _check_calibration(distances, rate, cap)
  m = distances.size
  finite = np.sort(distances[np.isfinite(distances)])
  delta, method, k = _threshold(finite, m, rate, cap)

  rng = np.random.default_rng(seed)
  deltas = np.full(resamples, cap)
  for i, drawn in enumerate(rng.binomial(m, finite.size / m, resamples)):
    if drawn:
      again = np.sort(finite[rng.integers(finite.size, size=drawn)])
      deltas[i] = _threshold(again, m, rate, cap)[0]
  low, high = (float(q) for q in np.quantile(deltas, [0.05, 0.95]))

  if method == "tail" and k:
    s = ((k + 1) / ((m + 1) * rate)) ** (1 / k) - 1
    p = rng.beta(k + 1, m - k, 20_000) * np.exp(-s * rng.gamma(k, 1, 20_000))
  elif method == "cap":
    below = np.count_nonzero(finite <= cap)
    p = rng.beta(below + 0.5, m - below + 0.5, 20_000)
  else:
    j = max(rate * (m + 1), 1e-9)
    p = rng.beta(j, m + 1 - j, 20_000)
  false = rng.binomial(m, p)
  ends = np.quantile(false, [0.05, 0.95], method="inverted_cdf")
  return Calibration(
    delta=delta,
    interval=(min(low, delta), max(high, delta)),
    rate=float(rate),
    searched=m,
    finite=finite.size,
    tail=k,
    method=method,
    expected=(float(m * p.mean()), float(ends[0]), float(ends[1])),
  )


def _threshold(
  finite: Float[np.ndarray, " f"], m: int, rate: float, cap: float
) -> tuple[float, str, int]:
  """(delta, method, k) for the sorted finite distances of m ids."""
  if not finite.size:
    return cap, "cap", 0
  j = rate * (m + 1)
  k = 0
  if rate >= 1 / m:
    if j >= finite.size:
      return cap, "cap", 0
    method, whole = "order statistic", int(j)
    low, high = finite[whole - 1], finite[whole]
    tied = low == high
    delta = np.nextafter(low, -1) if tied else low + (j - whole) * (high - low)
  else:
    method = "tail"
    k = min(max(10, round(finite.size / 10)), finite.size - 1)
    top = finite[k]
    if k:
      s = ((k + 1) / j) ** (1 / k) - 1
      steep = np.log(top / finite[:k]).sum()
      delta = top * np.exp(-s * steep) if steep else np.nextafter(top, -1)
    else:
      delta = top * min(j, 1.0)
  if delta >= cap:
    return cap, "cap", 0
  return float(delta), method, k


def _check_calibration(
  distances: Float[np.ndarray, "..."], rate: float, cap: float
) -> None:
  check_share("false_match_rate", rate)
  if not cap > 0:
    raise ValueError(f"cap is {cap}: expected a distance above 0")
  if distances.ndim != 1 or not distances.size:
    raise ValueError(
      f"calibration distances have shape {distances.shape}: expected one per "
      "calibration id, shape [m] with m > 0"
    )
  if np.isnan(distances).any() or (distances < 0).any():
    raise ValueError(
      "calibration distances hold NaN or negative values: expected "
      "distances >= 0, inf where an id has none"
    )
  m, copies = distances.size, int(np.count_nonzero(distances == 0))
  if copies > rate * m:
    raise ValueError(
      f"{copies} of {m} calibration images equal a generation exactly, above "
      f"false_match_rate={rate:g}: remove duplicates between the calibration "
      "and training images, or raise the rate"
    )

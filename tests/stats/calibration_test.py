# SPDX-License-Identifier: Apache-2.0
"""The match threshold lets through what it states, on data it has not seen."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from diffmem import stats


def power_law(rng, m, theta=6.0, reach=0.7):
  """Distances with F(x) = x^theta; beyond `reach` the ratio rejects."""
  x = rng.uniform(size=m) ** (1 / theta)
  return np.where(x > reach, np.inf, x)


@pytest.mark.parametrize(
  ("m", "rate", "method"),
  [
    (599, 0.001, "tail"),
    (599, 0.0003, "tail"),
    (300, 0.01, "order statistic"),
    (300, 0.0135, "order statistic"),  # between two order statistics
  ],
)
def test_realised_rate_averages_to_the_stated_one(m, rate, method):
  rng = np.random.default_rng(0)
  realised, covered = [], []
  for seed in range(300):
    found = stats.calibrate(power_law(rng, m), rate, seed, resamples=1)
    assert found.method == method
    realised.append(found.delta**6)  # F(delta), exactly
    false = rng.binomial(m, realised[-1])
    covered.append(found.expected[1] <= false <= found.expected[2])
  error = np.std(realised) / np.sqrt(300)
  assert abs(np.mean(realised) - rate) < 4 * error
  assert error < rate / 5  # or the line above could not fail
  assert np.mean(covered) > 0.87
  assert found.expected[0] == pytest.approx(m * rate, rel=0.05)


def test_the_plain_weissman_estimate_would_let_more_through():
  rng = np.random.default_rng(1)
  m, rate, k = 599, 0.0003, 10
  ours, plain = [], []
  for seed in range(300):
    x = np.sort(power_law(rng, m, reach=0.6))
    ours.append(stats.calibrate(x, rate, seed, resamples=1).delta ** 6)
    slope = np.log(x[k] / x[:k]).mean()
    plain.append((x[k] * (m * rate / k) ** slope) ** 6)
  assert np.mean(plain) > 1.3 * rate
  assert np.mean(ours) < 1.2 * rate


def test_delta_spread_holds_the_true_quantile():
  rng = np.random.default_rng(2)
  rate, held = 0.002, 0
  for seed in range(80):
    found = stats.calibrate(power_law(rng, 300), rate, seed, resamples=200)
    low, high = found.interval
    assert low <= found.delta <= high
    held += low <= rate ** (1 / 6) <= high
  assert held > 0.78 * 80


def test_the_seed_decides_and_order_does_not():
  rng = np.random.default_rng(3)
  x = power_law(rng, 200)
  first = stats.calibrate(x, 0.001, 7)
  assert first == stats.calibrate(x[::-1].copy(), 0.001, 7)
  other = stats.calibrate(x, 0.001, 8)
  assert other.delta == first.delta
  assert other.interval != first.interval


def test_distances_scale():
  x = power_law(np.random.default_rng(4), 200)
  found = stats.calibrate(x, 0.001, 0)
  half = stats.calibrate(x / 2, 0.001, 0)
  assert half.delta == pytest.approx(found.delta / 2)
  np.testing.assert_allclose(np.array(half.interval) * 2, found.interval)
  assert half.expected == found.expected


def test_rates_nest():
  x = power_law(np.random.default_rng(5), 400)
  rates = [1e-6, 1e-4, 1e-3, 0.004, 0.01, 0.1]
  deltas = [stats.calibrate(x, r, 0, resamples=1).delta for r in rates]
  assert deltas == sorted(deltas)
  assert deltas[0] > 0


def test_order_statistic_by_hand():
  x = np.array([0.4, 0.1, 0.3, 0.2, np.inf, np.inf, np.inf, np.inf, np.inf])
  # j = 0.25 * (9 + 1) = 2.5: half way between the second and the third.
  assert stats.calibrate(x, 0.25, 0).delta == pytest.approx(0.25)
  assert stats.calibrate(x, 0.2, 0).delta == pytest.approx(0.2)


def test_no_distance_at_all_leaves_the_cap():
  found = stats.calibrate(np.full(599, np.inf), 0.001, 0, cap=0.12)
  assert found.delta == 0.12
  assert found.interval == (0.12, 0.12)
  assert (found.method, found.finite, found.tail) == ("cap", 0, 0)
  mean, low, high = found.expected
  assert 0 < mean < 1  # none of 599 seen is not none ever
  assert low == 0
  assert 1 <= high <= 3


def test_the_cap_holds_and_is_counted():
  x = power_law(np.random.default_rng(6), 400)
  found = stats.calibrate(x, 0.1, 0, cap=0.4)
  assert found.delta == 0.4
  assert found.method == "cap"
  assert found.expected[0] == pytest.approx((x <= 0.4).sum(), abs=1)
  # More is allowed than any finite distance can give.
  few = np.r_[0.1, 0.2, np.full(18, np.inf)]
  assert stats.calibrate(few, 0.2, 0, cap=0.5).delta == 0.5


def test_few_finite_distances_use_what_there_is():
  rng = np.random.default_rng(7)
  x = np.full(599, np.inf)
  x[:4] = rng.uniform(0.1, 0.2, 4)
  found = stats.calibrate(x, 0.0005, 0)
  assert (found.method, found.tail) == ("tail", 3)
  assert 0 < found.delta < x.min()
  one = np.full(599, np.inf)
  one[0] = 0.1
  found = stats.calibrate(one, 0.0005, 0)
  assert found.tail == 0
  assert found.delta == pytest.approx(0.1 * 0.0005 * 600)  # theta = 1


def test_ties_stay_below_the_rate():
  x = np.r_[np.full(30, 0.1), np.full(70, 0.3)]
  assert stats.calibrate(x, 0.05, 0).delta == np.nextafter(0.1, 0)
  assert stats.calibrate(x, 0.001, 0).delta == np.nextafter(0.1, 0)


def test_copies_among_calibration_images():
  x = np.r_[0.0, 0.0, np.linspace(0.1, 0.3, 198)]
  with pytest.raises(ValueError, match="2 of 200 calibration images equal"):
    stats.calibrate(x, 0.005, 0)
  # Two copies are within a rate of 2%: 4.02 of 200 allowed.
  assert 0.1 < stats.calibrate(x, 0.02, 0).delta < 0.103


def test_unusable_input_is_refused():
  with pytest.raises(ValueError, match="NaN or negative"):
    stats.calibrate(np.array([0.1, np.nan]), 0.1, 0)
  with pytest.raises(ValueError, match="NaN or negative"):
    stats.calibrate(np.array([0.1, -0.1]), 0.1, 0)
  with pytest.raises(ValueError, match="false_match_rate is 0"):
    stats.calibrate(np.array([0.1]), 0.0, 0)
  with pytest.raises(ValueError, match=r"shape \(0,\)"):
    stats.calibrate(np.zeros(0), 0.1, 0)
  with pytest.raises(ValueError, match="cap is 0"):
    stats.calibrate(np.array([0.1]), 0.1, 0, cap=0.0)


def test_the_predictive_law_is_beta_binomial_for_order_statistics():
  x = power_law(np.random.default_rng(8), 300)
  found = stats.calibrate(x, 3 / 301 * (1 + 1e-12), 0)
  law = scipy.stats.betabinom(300, 3, 298)
  assert found.expected[0] == pytest.approx(law.mean(), rel=0.03)
  assert found.expected[1:] == (law.ppf(0.05), law.ppf(0.95))


def test_plain_numbers():
  found = dataclasses.asdict(stats.calibrate(np.full(3, np.inf), 0.1, 0))
  for value in (found["delta"], *found["interval"], *found["expected"]):
    assert type(value) is float

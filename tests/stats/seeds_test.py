# SPDX-License-Identifier: Apache-2.0
"""Numbers of seeds: Student's interval and test, Holm's adjustment."""

import numpy as np
import pytest
import scipy.stats

from diffmem import stats


def test_student_is_scipy_s():
  values = np.random.default_rng(0).normal(0.4, 1.0, 7)
  found = stats.student(values)
  other = scipy.stats.ttest_1samp(values, 0.0, alternative="greater")
  ends = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
  assert found.p == pytest.approx(other.pvalue)
  assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
  assert (found.positive, found.count) == (int((values > 0).sum()), 7)


def test_intervals_hold_the_truth_as_often_as_they_say():
  rng = np.random.default_rng(1)
  found = [stats.student(rng.normal(0.3, 1.0, 5)) for _ in range(2000)]
  held = np.mean([f.low <= 0.3 <= f.high for f in found])
  assert 0.935 < held < 0.965


def test_equal_values_have_the_p_of_their_signs():
  assert stats.student([8.0] * 5).p == 2.0**-5
  assert stats.student([0.0] * 5).p == 1.0
  assert stats.student([-2.0] * 5).p == 1.0


def test_a_single_seed_has_no_interval():
  found = stats.student([3.0])
  assert (found.mean, found.low, found.p) == (3.0, None, None)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_values_that_are_none(values):
  with pytest.raises(ValueError, match="expected finite ones"):
    stats.student(values)


def test_holm_by_hand():
  # sorted: .01 x 4, .02 x 3, .03 x 2, .04 x 1, never falling
  assert stats.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx(
    [0.06, 0.04, 0.06, 0.06]
  )
  assert stats.holm([0.5, 0.9]) == [1.0, 1.0]
  assert stats.holm([]) == []


def test_holm_keeps_the_chance_of_any_false_claim():
  rng = np.random.default_rng(2)
  wrong = [
    min(stats.holm(rng.uniform(size=20).tolist())) < 0.05 for _ in range(2000)
  ]
  assert 0.03 < np.mean(wrong) < 0.07


def test_holm_refuses_what_is_no_probability():
  with pytest.raises(ValueError, match="0 to 1"):
    stats.holm([0.2, 1.5])

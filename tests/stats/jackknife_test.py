# SPDX-License-Identifier: Apache-2.0
"""The jackknife of what has a formula, and how often its interval holds."""

import numpy as np
import pytest
import scipy.stats

from diffmem.stats import jackknife

RNG = np.random.default_rng(0)


def test_of_a_mean_it_is_the_t_interval():
  """One image a group: the textbook interval, exactly."""
  x = RNG.normal(size=30)
  (found,) = jackknife(lambda a: [a.mean()], [x], groups=30)
  expected = scipy.stats.ttest_1samp(x, 0).confidence_interval()
  np.testing.assert_allclose([found.low, found.high], expected)
  np.testing.assert_allclose(found.se, x.std(ddof=1) / np.sqrt(30))
  assert found.bias == pytest.approx(0, abs=1e-12)


def test_it_tells_the_bias_of_a_variance():
  x = RNG.normal(size=40)
  (found,) = jackknife(lambda a: [a.var()], [x], groups=40)
  assert found.bias == pytest.approx(x.var() - x.var(ddof=1))
  assert found.value == x.var()  # told, not taken away


def test_the_interval_of_two_sets_holds_as_often_as_it_says():
  held = 0
  for trial in range(300):
    rng = np.random.default_rng(trial)
    a, b = rng.exponential(size=120), rng.normal(size=200)
    (found,) = jackknife(
      lambda a, b: [a.mean() - b.mean()], [a, b], groups=10, seed=trial
    )
    held += found.low <= 1 <= found.high
  assert 0.90 < held / 300 < 0.985


def test_ends_stay_where_the_number_can_be():
  x = np.array([1.0] * 19 + [0.0])
  (found,) = jackknife(lambda a: [a.mean()], [x], groups=20)
  assert found.high > 1
  assert found.ends(0.0, 1.0) == [0.95, found.low, 1.0]


@pytest.mark.parametrize("groups", [1, 6])
def test_groups_must_hold_images(groups):
  with pytest.raises(ValueError, match=f"{groups} groups of images"):
    jackknife(lambda a: [a.mean()], [np.arange(5.0)], groups=groups)

# SPDX-License-Identifier: Apache-2.0
"""Counts of ids: against enumeration, closed forms and scipy."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem import stats


@pytest.mark.parametrize(("k", "n"), [(0, 7), (3, 7), (7, 7), (9, 599)])
def test_clopper_pearson_inverts_the_binomial(k, n):
  low, high = stats.clopper_pearson(k, n)
  if k:
    assert scipy.stats.binom.sf(k - 1, n, low) == pytest.approx(0.025)
  else:
    assert low == 0.0
  if k < n:
    assert scipy.stats.binom.cdf(k, n, high) == pytest.approx(0.025)
  else:
    assert high == 1.0


def test_clopper_pearson_limits():
  assert stats.clopper_pearson(0, 0) == (0.0, 1.0)
  narrow = stats.clopper_pearson(5, 50, level=0.5)
  wide = stats.clopper_pearson(5, 50, level=0.99)
  assert wide[0] < narrow[0] < 0.1 < narrow[1] < wide[1]
  with pytest.raises(ValueError, match="8 of 7"):
    stats.clopper_pearson(8, 7)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=3), st.integers(0, 9))
def test_rarefaction_equals_enumeration(counts, extra):
  total = min(max(sum(counts), 1) + extra, 9)
  if sum(counts) > total:
    return
  owner = [i for i, n in enumerate(counts) for _ in range(n)]
  owner += [None] * (total - len(owner))
  budgets = np.arange(total + 1)
  want = []
  for m in budgets:
    picked = itertools.combinations(owner, int(m))
    want.append(np.mean([len(set(p) - {None}) for p in picked]))
  got = stats.rarefaction(np.array(counts, np.int64), total, budgets)
  np.testing.assert_allclose(got, want, atol=1e-12)


def test_rarefaction_equals_simulation_at_scale():
  rng = np.random.default_rng(0)
  counts = np.r_[rng.integers(1, 60, 30), np.zeros(100, np.int64)]
  total = 20_000
  owner = np.repeat(np.arange(len(counts)), counts)
  trials = []
  for _ in range(300):
    picked = rng.choice(total, 2000, replace=False)
    trials.append(len(np.unique(owner[picked[picked < len(owner)]])))
  got = stats.rarefaction(counts, total, [0, 2000, total])
  assert got[0] == 0.0
  assert got[2] == pytest.approx(30)
  assert abs(got[1] - np.mean(trials)) < 4 * np.std(trials) / np.sqrt(300)


def test_rarefaction_of_images_matched_by_several_ids_and_by_millions():
  # One generation may match two duplicate ids: counts may exceed the total.
  both = stats.rarefaction(np.array([3, 3]), 3, [1, 3])
  np.testing.assert_allclose(both, [2.0, 2.0])
  many = stats.rarefaction(np.array([1]), 1 << 20, [1 << 19])
  np.testing.assert_allclose(many, [0.5], rtol=1e-8)


def test_rarefaction_refuses():
  with pytest.raises(ValueError, match="5 matching generations"):
    stats.rarefaction(np.array([1, 5]), 4, [2])
  with pytest.raises(ValueError, match="cannot be extrapolated"):
    stats.rarefaction(np.array([1]), 4, [5])


@pytest.mark.parametrize(
  ("overlap", "a", "b", "population"),
  [
    (0, 5, 9, 40),
    (3, 5, 9, 40),
    (5, 5, 9, 40),
    (12, 40, 60, 599),
    (4, 4, 4, 4),
  ],
)
def test_overlap_equals_scipy(overlap, a, b, population):
  log10_p, expected = stats.hypergeometric_tail(overlap, a, b, population)
  law = scipy.stats.hypergeom(population, a, b)
  assert expected == pytest.approx(a * b / population)
  want = np.log10(law.sf(overlap - 1))
  assert log10_p == pytest.approx(want, abs=1e-9)


def test_overlap_below_the_smallest_float():
  # All of 700 in common, of 5,000: p = 1 / C(5000, 700), far below 1e-308.
  log10_p, _ = stats.hypergeometric_tail(700, 700, 700, 5000)
  log = scipy.special.gammaln
  want = (log(701) + log(4301) - log(5001)) / np.log(10)
  assert want < -500
  assert log10_p == pytest.approx(want, rel=1e-9)


def test_overlap_refuses():
  with pytest.raises(ValueError, match="population of 3"):
    stats.hypergeometric_tail(0, 4, 2, 3)
  with pytest.raises(ValueError, match="overlap is 3"):
    stats.hypergeometric_tail(3, 4, 2, 9)


def test_overlap_within_strata():
  """One stratum is the hypergeometric; of two, by enumeration."""
  assert stats.overlap_tail(3, [(5, 6, 20)]) == stats.hypergeometric_tail(
    3, 5, 6, 20
  )
  strata = [(2, 3, 5), (1, 2, 4)]
  masses = [
    [scipy.stats.hypergeom.pmf(k, n, a, b) for k in range(min(a, b) + 1)]
    for a, b, n in strata
  ]
  for overlap in range(4):
    expected = sum(
      p * q
      for i, p in enumerate(masses[0])
      for j, q in enumerate(masses[1])
      if i + j >= overlap
    )
    log_p, mean = stats.overlap_tail(overlap, strata)
    assert 10**log_p == pytest.approx(expected)
    assert mean == pytest.approx(2 * 3 / 5 + 1 * 2 / 4)
  with pytest.raises(ValueError, match="overlap is 4: expected 0 to 3"):
    stats.overlap_tail(4, strata)


def test_overlap_of_many_strata_does_not_underflow():
  strata = [(244, 244, 1000), (300, 300, 2000), (0, 5, 9)]
  log_p, expected = stats.overlap_tail(544, strata)
  assert -1200 < log_p < -300
  assert expected == pytest.approx(244**2 / 1000 + 300**2 / 2000)

# SPDX-License-Identifier: Apache-2.0
"""Frechet distances that have a closed form, and those of scipy."""

import numpy as np
import pytest
import scipy.linalg

from diffmem.quality import frechet
from diffmem.quality.frechet import of_gaussians

RNG = np.random.default_rng(0)


def covariance(d):
  a = RNG.normal(size=(d, d))
  return a @ a.T / d


def exact(mean, cov, n):
  """N vectors with this mean and this covariance, exactly."""
  x = RNG.normal(size=(n, len(mean)))
  x -= x.mean(axis=0)
  x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
  return x @ np.linalg.cholesky(cov).T + mean


def test_of_one_dimension():
  """(m - n)^2 + (s - t)^2."""
  one = RNG.normal(2, 3, (400, 1))
  other = RNG.normal(-1, 0.5, (300, 1))
  means, deviations = (
    [f(x) for x in (one, other)] for f in (np.mean, lambda x: x.std(ddof=1))
  )
  expected = np.diff(means) ** 2 + np.diff(deviations) ** 2
  assert frechet(one, other) == pytest.approx(expected[0])


def test_of_commuting_covariances():
  """Sum (sqrt s - sqrt t)^2 over what they share."""
  q = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
  s, t = RNG.uniform(0.1, 2, (2, 5))
  cov, other = ((q * v) @ q.T for v in (s, t))
  mean = RNG.normal(size=5)
  found = of_gaussians(mean, cov, np.zeros(5), other)
  assert found == pytest.approx(
    (mean**2).sum() + ((np.sqrt(s) - np.sqrt(t)) ** 2).sum()
  )


def test_equals_the_matrix_root_of_scipy():
  cov, other = covariance(6), covariance(6)
  mean = RNG.normal(size=6)
  one = exact(mean, cov, 100)
  two = exact(np.zeros(6), other, 80)
  root = scipy.linalg.sqrtm(cov @ other).real
  expected = (mean**2).sum() + np.trace(cov + other - 2 * root)
  assert frechet(one, two) == pytest.approx(expected)


def test_of_a_set_and_itself_it_is_zero():
  x = RNG.normal(size=(50, 4))
  assert frechet(x, x) == pytest.approx(0, abs=1e-12)
  flat = x * [1, 1, 0, 1]  # a value that never varies
  assert frechet(flat, flat) == pytest.approx(0, abs=1e-12)


def test_a_small_set_looks_farther_away():
  x = RNG.normal(size=(2, 4000, 8))
  small = np.mean([frechet(a[:40], b[:40]) for a, b in [x, x[:, 40:]]])
  assert small > 5 * frechet(*x)


def test_fewer_images_than_values_are_refused():
  x = RNG.normal(size=(8, 8))
  with pytest.raises(ValueError, match="8 images for vectors of 8 values"):
    frechet(x, RNG.normal(size=(90, 8)))


def test_vectors_must_be_finite_and_of_one_kind():
  x = RNG.normal(size=(20, 3))
  bad = x.copy()
  bad[7, 1] = np.nan
  with pytest.raises(ValueError, match="NaN or infinite values in 1 of 20"):
    frechet(x, bad)
  with pytest.raises(ValueError, match="vectors of 3 and of 2 values"):
    frechet(x, x[:, :2])
  with pytest.raises(ValueError, match=r"shape \[0, 3\]"):
    frechet(x[:0], x)

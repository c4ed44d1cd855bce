# SPDX-License-Identifier: Apache-2.0
"""Thresholds per image: the quantile they stand at, and what they gain."""

import inspect

import numpy as np
import pytest
import scipy.optimize
from sklearn import datasets

from diffmem import arrays, membership, stats
from diffmem.denoiser import finite_set
from diffmem.diffusion import schedules
from diffmem.membership import quantile


def world(n, rng, shift=0.0):
  """Scores whose level and spread depend on the first of two features."""
  x = rng.uniform(0, 1, (n, 2))
  return 5 * x[:, 0] + (0.2 + x[:, 0]) * rng.normal(size=n) + shift, x


def test_linear_thresholds_minimize_the_pinball_loss():
  """Against the same fit as a linear program."""
  s, x = world(80, np.random.default_rng(0))
  u = 0.8
  # s - (c + x w) = above - below, cost u above + (1 - u) below
  design = np.column_stack([np.ones(80), x, -np.ones(80), -x])
  design = np.column_stack([design, np.eye(80), -np.eye(80)])
  cost = np.concatenate([np.zeros(6), np.full(80, u), np.full(80, 1 - u)])
  found = scipy.optimize.linprog(cost, A_eq=design, b_eq=s).x
  q = (found[0] - found[3]) + x @ (found[1:3] - found[4:6])
  got = quantile.score(s, x, s, x, fpr=0.2, bags=1)
  np.testing.assert_allclose(got, s - q, atol=1e-6)


@pytest.mark.parametrize("regressor", quantile.REGRESSORS)
def test_rates_hold_for_every_kind_of_image(regressor):
  rng = np.random.default_rng(1)
  known, x = world(1500, rng)
  fresh, at = world(4000, rng)
  got = quantile.score(
    fresh, at, known, x, fpr=0.1, regressor=regressor, bags=1
  )
  common = np.quantile(known, 0.9)
  for part in (at[:, 0] < 0.5, at[:, 0] >= 0.5):
    assert np.mean(got[part] > 0) == pytest.approx(0.1, abs=0.04)
    assert abs(np.mean(fresh[part] > common) - 0.1) > 0.05
  again, where = world(4000, rng, shift=1.0)
  members = quantile.score(
    again, where, known, x, fpr=0.1, regressor=regressor, bags=1
  )
  assert stats.auc(members, got) > stats.auc(again, fresh) + 0.1


@pytest.mark.parametrize("regressor", quantile.REGRESSORS)
def test_noise_tells_nothing(regressor):
  rng = np.random.default_rng(2)
  s, x = rng.normal(size=2600), rng.normal(size=(2600, 3))
  got = quantile.score(
    s[:2000], x[:2000], s[2000:], x[2000:], regressor=regressor, bags=1
  )
  _, low, high = stats.interval(got[:1000], got[1000:], seed=0)
  assert low < 0.5 < high
  assert high - low < 0.06
  assert np.mean(got > 0) == pytest.approx(0.05, abs=0.03)


def test_the_sign_is_a_majority_vote():
  rng = np.random.default_rng(3)
  known, x = world(60, rng)
  fresh, at = world(50, rng)
  got = quantile.score(fresh, at, known, x, bags=5, seed=7, fpr=0.1)
  draw, votes = np.random.default_rng(7), 0
  for _ in range(5):
    rows = draw.integers(60, size=60)
    alone = quantile.score(fresh, at, known[rows], x[rows], bags=1, fpr=0.1)
    votes += alone > 0
  np.testing.assert_array_equal(got > 0, votes >= 3)


def test_a_model_that_memorized_all_betrays_its_members():
  values = datasets.load_digits().images[:160]
  images = np.round(values * 255 / 16).astype(np.uint8)[..., None]
  members, others, known = images[:40], images[40:80], images[80:]
  model = finite_set(np.asarray(arrays.from_uint8(members)), schedules.linear())
  s = membership.score("loss", model, images, t=100, draws=2)
  features, x = quantile.pixels(images[:80], known, components=5)
  assert features.shape == (80, 7)
  assert x.shape == (80, 7)
  assert len(others) == 40
  got = quantile.score(s[:80], features, s[80:], x, fpr=0.1)
  assert stats.auc(got[:40], got[40:]) > 0.99
  assert np.all(got[:40] > 0)


def test_pixel_features_come_from_the_calibration_images():
  rng = np.random.default_rng(4)
  images = rng.integers(0, 256, (30, 3, 3, 1)).astype(np.uint8)
  features, x = quantile.pixels(images[:10], images[10:], components=4)
  flat = images.reshape(30, 9) / 255
  mean = flat[10:].mean(0)
  _, _, rows = np.linalg.svd(flat[10:] - mean, full_matrices=False)
  along = (flat - mean) @ rows[:4].T
  close = {"rtol": 1e-4, "atol": 1e-5}
  np.testing.assert_allclose(
    np.abs(features[:, :4]), np.abs(along[:10]), **close
  )
  np.testing.assert_allclose(np.abs(x[:, :4]), np.abs(along[10:]), **close)
  np.testing.assert_allclose(features[:, 4], flat[:10].mean(1), **close)
  np.testing.assert_allclose(x[:, 5], flat[10:].std(1), **close)


def test_bad_input():
  s, x = world(40, np.random.default_rng(5))
  good = {"fpr": 0.1, "bags": 1}
  holed = s.copy()
  holed[3] = np.nan
  cases = (
    ((s, x, s, x), {"fpr": 0.01}, "40 calibration images .* give 100 or more"),
    ((s, x, s, x), {"fpr": 1.0}, "fpr is 1.0: expected more than 0"),
    ((s, x, s, x), {"bags": 4}, "bags = 4: expected an odd number"),
    ((s, x, s, x), {"regressor": "net"}, "regressor 'net': choose one of"),
    ((holed, x, s, x), {}, "1 of 40 scores are NaN"),
    ((s, x, s, x * np.inf), {}, "80 of 80 features of calibration scores are"),
    ((s, x, s * 0, x), {}, "all 40 calibration scores are 0"),
    ((s[:9], x, s, x), {}, "9 scores for 40 rows of features"),
  )
  for given, options, message in cases:
    with pytest.raises(ValueError, match=message):
      inspect.unwrap(quantile.score)(*given, **good | options)

# SPDX-License-Identifier: Apache-2.0
"""Balls around neighbours: a twin that reads like the papers, and limits."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from diffmem.quality import density_coverage, manifolds, precision_recall

RNG = np.random.default_rng(0)


def radius(points, i, k):
  others = np.delete(points, i, axis=0)
  return np.sort(np.linalg.norm(others - points[i], axis=1))[k - 1]


def naive(real, made, k):
  """(precision, recall, density, coverage), one pair at a time."""

  def balls(centres):
    return [(c, radius(centres, i, k)) for i, c in enumerate(centres)]

  def within(point, ball):
    return np.linalg.norm(point - ball[0]) <= ball[1]

  real_balls, made_balls = balls(real), balls(made)
  precision = [any(within(y, b) for b in real_balls) for y in made]
  recall = [any(within(x, b) for b in made_balls) for x in real]
  density = [sum(within(y, b) for b in real_balls) / k for y in made]
  coverage = [any(within(y, b) for y in made) for b in real_balls]
  return [float(np.mean(v)) for v in (precision, recall, density, coverage)]


def all_four(real, made, k):
  return [*precision_recall(real, made, k), *density_coverage(real, made, k)]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_the_naive_twin(k):
  real = RNG.normal(size=(40, 3))
  made = RNG.normal(0.5, 1.3, size=(31, 3))
  np.testing.assert_allclose(all_four(real, made, k), naive(real, made, k))


def test_blocks_change_nothing(monkeypatch):
  real, made = RNG.normal(size=(2, 60, 4))
  whole = all_four(real, made, 3)
  monkeypatch.setattr(manifolds, "PAIRS", 7 * 60)
  assert all_four(real, made, 3) == whole


@pytest.mark.parametrize("d", [2, 128])
def test_of_a_set_and_itself(d):
  """In each ball its centre and the k on whose last it ends."""
  x = RNG.normal(3, 1, size=(50, d))
  assert all_four(x, x.copy(), 5) == pytest.approx([1, 1, 6 / 5, 1])


def test_of_sets_far_apart():
  real = RNG.normal(size=(50, 4))
  assert all_four(real, real + 100, 5) == [0, 0, 0, 0]


def test_of_one_law_density_is_one():
  """And coverage is 1 - C(2n-1-k, n) / C(2n-1, n), n images of each."""
  n, k = 200, 5
  draws = RNG.normal(size=(30, 2, n, 2))
  found = np.mean([density_coverage(*pair, k) for pair in draws], axis=0)
  missed = np.prod([(n - 1 - i) / (2 * n - 1 - i) for i in range(k)])
  np.testing.assert_allclose(found, [1, 1 - missed], atol=0.02)


def test_copies_do_not_make_a_ball_lose_its_centre():
  """With k copies of each the radius is 0: equal vectors are inside."""
  real = np.repeat(RNG.normal(size=(10, 6)), 4, axis=0)
  precision, recall = precision_recall(real, real[::4], 3)
  assert precision == 1
  assert recall == 1
  assert precision_recall(real, real[::4] + 0.1, 3)[0] == 0


def test_an_outlier_lifts_precision_but_hardly_density():
  """One real image far away has a ball that holds everything."""
  real = np.concatenate([RNG.normal(size=(99, 2)), [[30.0, 0]]])
  made = RNG.normal((12, 0), 1, (100, 2))
  assert precision_recall(real, made, 3)[0] > 0.9
  assert density_coverage(real, made, 3)[0] < 0.4
  assert density_coverage(real, made, 3)[1] < 0.05


def test_radii_are_those_of_scikit_learn():
  x = RNG.normal(size=(80, 7))
  neighbours = NearestNeighbors(n_neighbors=3).fit(x).kneighbors()[0]
  np.testing.assert_allclose(manifolds._radii(x, 3), neighbours[:, -1] ** 2)


def test_bad_input_is_refused():
  x = RNG.normal(size=(6, 3))
  with pytest.raises(ValueError, match=r"k = 6 neighbours .* expected 1 to 5"):
    precision_recall(x, x, 6)
  with pytest.raises(ValueError, match="vectors of 3 and of 2 values"):
    density_coverage(x, x[:, :2], 2)
  with pytest.raises(ValueError, match="made holds NaN"):
    density_coverage(x, x * np.nan, 2)

# SPDX-License-Identifier: Apache-2.0
"""The loss attack on models whose truth is known in closed form."""

import numpy as np
import pytest
import sklearn.metrics
from sklearn import datasets

import diffmem
from diffmem import arrays, membership, stats
from diffmem.denoiser import Denoiser, finite_set, gaussian
from diffmem.diffusion import schedules
from diffmem.membership import loss

SCHEDULE = schedules.linear()


@pytest.fixture(scope="module")
def digits():
  pixels = datasets.load_digits().images
  images = np.round(pixels * 255 / 16).astype(np.uint8)[..., None]
  return images[np.random.default_rng(0).permutation(len(images))]


def test_a_model_that_memorized_all_betrays_its_members(digits):
  members, others = digits[:60], digits[60:120]
  model = finite_set(np.asarray(arrays.from_uint8(members)), SCHEDULE)
  labels = np.repeat([1, 0], 60)
  for t in (10, 100):
    scores = [
      membership.score("loss", model, images, t=t, draws=4)
      for images in (members, others)
    ]
    assert stats.auc(*scores) > 0.99
    expected = sklearn.metrics.roc_auc_score(labels, np.concatenate(scores))
    assert expected > 0.99


def test_a_model_that_memorized_none_tells_nothing(digits):
  flat = np.asarray(arrays.from_uint8(digits[800:])).reshape(-1, 64)
  mean, cov = flat.mean(0).reshape(8, 8, 1), np.cov(flat.T)
  model = gaussian(mean, cov, SCHEDULE)
  scores = membership.score("loss", model, digits[:600], t=100, draws=4)
  auc, low, high = stats.interval(scores[:300], scores[300:], seed=0)
  assert low < 0.5 < high
  assert high - low < 0.15
  assert 0.4 < auc < 0.6


def test_score_is_minus_the_mean_loss():
  losses = np.array([[1.0, 3.0], [0.0, 1.0]])[:, None, :, None]
  np.testing.assert_array_equal(loss.scores(losses), [[-2.0], [-0.5]])


def test_more_draws_of_one_seed_extend_the_fewer(digits):
  model = finite_set(np.asarray(arrays.from_uint8(digits[:9])), SCHEDULE)
  images = digits[5:20]
  one, two = (
    membership.score("loss", model, images, t=50, draws=j) for j in (1, 2)
  )
  again = diffmem.membership.score("loss", model, images, t=50, draws=2)
  np.testing.assert_array_equal(two, again)
  assert np.any(one != two)


def test_unknown_attack():
  model = Denoiser(lambda x, t, c: x, SCHEDULE, (8, 8, 1))
  with pytest.raises(ValueError, match="unknown attack 'lira': choose one"):
    membership.score("lira", model, np.zeros((1, 8, 8, 1), np.uint8))

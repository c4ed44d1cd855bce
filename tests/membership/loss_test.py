# SPDX-License-Identifier: Apache-2.0
"""The loss attack on models whose truth is known in closed form."""

import numpy as np
import pytest
from sklearn import datasets

import diffmem
from diffmem import arrays, membership
from diffmem.denoiser import Denoiser, finite_set
from diffmem.diffusion import schedules
from diffmem.membership import loss

SCHEDULE = schedules.linear()


@pytest.fixture(scope="module")
def digits():
  pixels = datasets.load_digits().images
  images = np.round(pixels * 255 / 16).astype(np.uint8)[..., None]
  return images[np.random.default_rng(0).permutation(len(images))]


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

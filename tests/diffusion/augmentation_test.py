# SPDX-License-Identifier: Apache-2.0
"""Noise conditioning augmentation against its two formulas."""

import numpy as np
import pytest

from diffmem.diffusion import augmentation, schedules


def test_smaller_is_the_mean_of_blocks():
  x = np.random.default_rng(0).normal(size=(2, 6, 12, 3)).astype(np.float32)
  want = np.stack(
    [
      [[x[b, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].mean((0, 1))
        for j in range(4)] for i in range(2)]
      for b in range(2)
    ]
  )  # fmt: skip
  np.testing.assert_allclose(augmentation.smaller(x, 2), want, atol=1e-6)
  np.testing.assert_array_equal(augmentation.smaller(x, 6), x)


@pytest.mark.parametrize("height", [0, 4, 7])
def test_blocks_must_be_whole(height):
  with pytest.raises(ValueError, match=f"6x12 .* down to height {height}"):
    augmentation.smaller(np.zeros((1, 6, 12, 1), np.float32), height)


def test_noise_has_the_variance_of_its_level():
  schedule = schedules.cosine(steps=50)
  rng = np.random.default_rng(0)
  low = np.full((3, 40, 40, 1), 0.5, np.float32)
  eps = rng.standard_normal(low.shape).astype(np.float32)
  level = np.array([0, 20, 49])
  made = augmentation.augment(low, eps, level, schedule.alpha_bar)
  ab = schedule.alpha_bar[level]
  want = np.sqrt(ab)[:, None, None, None] * low
  want = want + np.sqrt(1 - ab)[:, None, None, None] * eps
  np.testing.assert_allclose(made["low"], want, atol=1e-6)
  np.testing.assert_array_equal(made["level"], level)
  spread = np.asarray(made["low"]).reshape(3, -1).std(axis=1)
  np.testing.assert_allclose(spread, np.sqrt(1 - ab), rtol=0.05)

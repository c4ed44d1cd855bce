# SPDX-License-Identifier: Apache-2.0
"""The blind classifier passes a fair split and catches one that leaks."""

import numpy as np
import pytest
import sklearn.datasets

from diffmem.membership import blind

OPTIONS = {"components": 8, "trees": 8, "folds": 3, "seed": 0}


@pytest.fixture(scope="module")
def digits():
  images = sklearn.datasets.load_digits().images[:400]
  return (images * 15).astype(np.uint8)[..., None]


def test_a_fair_split(digits):
  member = np.random.default_rng(0).random(400) < 0.5
  found = blind.control(digits, member[None], bootstrap=100, **OPTIONS)
  assert found["passes"], found
  assert found["images"] == 400
  assert "cannot be told apart" in found["says"]


def test_several_splits_are_pooled(digits):
  rng = np.random.default_rng(3)
  inside = np.stack([rng.random(400) < 0.5 for _ in range(3)])
  found = blind.control(digits, inside, bootstrap=100, **OPTIONS)
  assert found["passes"], found
  assert found["splits"] == 3
  low, high = found["logistic"]["auc"][1:]
  one = blind.control(digits, inside[:1], bootstrap=100, **OPTIONS)
  assert high - low < np.ptp(one["logistic"]["auc"][1:])


@pytest.mark.parametrize("kind", ["brighter", "softer"])
def test_a_split_that_leaks(digits, kind):
  """Brightness is linear; contrast alone only the forest can see."""
  member = np.random.default_rng(1).random(400) < 0.5
  images = digits.astype(float)
  if kind == "brighter":
    images[member] += 15
  else:
    middle = images.mean(0)[None]
    images[member] = middle + 0.5 * (images[member] - middle)
  images = images.clip(0, 255).astype(np.uint8)
  found = blind.control(images, member[None], bootstrap=100, **OPTIONS)
  assert not found["passes"]
  assert "The split leaks" in found["says"]


def test_no_image_is_scored_by_what_was_fitted_on_it(digits):
  """Labels of pure chance cannot be learnt by heart."""
  member = np.random.default_rng(2).random(400) < 0.5
  tuned = OPTIONS | {"components": 64, "trees": 30}
  for name, scores in blind.scores(digits, member, **tuned).items():
    gap = scores[member].mean() - scores[~member].mean()
    assert abs(gap) < 0.15, name


def test_too_few(digits):
  member = np.arange(400) < 2
  with pytest.raises(ValueError, match="folds = 3 for 2 images"):
    blind.scores(digits, member, **OPTIONS)

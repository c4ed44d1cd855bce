# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from diffmem.extraction import agreement

SHAPE = (4, 4, 1)


@pytest.fixture(scope="module")
def halves():
  pixels = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)
  return pixels[:20], pixels[20:]


def test_ratios_are_those_of_two_nearest(halves):
  training, generated = halves
  flat = training.reshape(20, -1).astype(float)
  for x, found in zip(
    generated, agreement.ratios(generated, training), strict=True
  ):
    gaps = np.sort(np.sqrt(((flat - x.reshape(-1)) ** 2).sum(1)))
    assert found == pytest.approx(gaps[0] / gaps[1])


def test_a_copy_has_ratio_zero_and_duplicates_one(halves):
  training, _ = halves
  np.testing.assert_array_equal(agreement.ratios(training, training), 0)
  twice = np.concatenate([training, training])
  np.testing.assert_array_equal(agreement.ratios(training, twice), 1)


def test_models_that_copy(halves):
  first, second = halves
  found = agreement.agreement(first, second, halves)
  np.testing.assert_allclose(found["own"], 1)
  assert found["other"].mean() < 0.9
  assert abs(found["same_noise"].mean()) < 0.3


def test_models_that_agree(halves):
  new = np.random.default_rng(1).integers(0, 256, (20, *SHAPE), np.uint8)
  found = agreement.agreement(new, new, halves)
  np.testing.assert_allclose(found["same_noise"], 1)
  assert abs(found["shuffled"].mean()) < 0.3
  assert found["own"].mean() < 0.9


def test_errors(halves):
  first, second = halves
  with pytest.raises(ValueError, match="1 training images"):
    agreement.ratios(first, second[:1])
  with pytest.raises(ValueError, match="from the same noise"):
    agreement.agreement(first, second[:3], halves)

# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from diffmem.data import Dataset, reduced


def test_blocks_become_their_mean_halves_up():
  images = np.random.default_rng(0).integers(0, 256, (5, 6, 12, 3), np.uint8)
  for height, f in ((3, 2), (2, 3), (6, 1)):
    blocks = images.reshape(5, height, f, 12 // f, f, 3).astype(np.float64)
    want = np.floor(blocks.mean(axis=(2, 4)) + 0.5)
    made = reduced.to_height(images, height)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, want)
  half = np.array([0, 1, 1, 0], np.uint8).reshape(1, 2, 2, 1)
  assert reduced.to_height(half, 1).item() == 1


def test_many_images_are_averaged_in_blocks(monkeypatch):
  images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1), np.uint8)
  whole = reduced.to_height(images, 2)
  monkeypatch.setattr(reduced, "BLOCK", 3)
  np.testing.assert_array_equal(reduced.to_height(images, 2), whole)


@pytest.mark.parametrize("height", [0, 4, 5, 12])
def test_what_does_not_divide_is_refused(height):
  images = np.zeros((1, 6, 9, 1), np.uint8)
  with pytest.raises(ValueError, match=f"6x9 .* down to height {height}"):
    reduced.to_height(images, height)


def test_images_of_another_size_stay():
  images = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
  dataset = Dataset(images, np.array([3]), captions=("a",))
  assert reduced.fitted_dataset(dataset, 8) is dataset
  assert reduced.fitted_dataset(dataset, 5) is dataset
  assert reduced.fitted(images, 16) is images
  small = reduced.fitted_dataset(dataset, 4)
  np.testing.assert_array_equal(small.images, reduced.to_height(images, 4))
  assert (small.ids[0], small.captions) == (3, ("a",))

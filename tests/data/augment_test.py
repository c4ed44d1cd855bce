# SPDX-License-Identifier: Apache-2.0
"""Moves and mirrors: a naive twin, uniform draws, and what is refused."""

import numpy as np
import pytest

from diffmem.data import Batches, augment

RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
OFF = {"flip": False, "shift": 0, "seed": 0, "step": 0}


def test_moves_repeat_the_edge():
  by = RNG.integers(-3, 4, (6, 2))
  found = augment.moved(PIXELS, by)
  for image, (dy, dx), got in zip(PIXELS, by, found, strict=True):
    wide = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="edge")
    np.testing.assert_array_equal(got, wide[3 - dy : 7 - dy, 3 - dx : 8 - dx])


def test_nothing_asked_changes_nothing():
  found = augment.augment(PIXELS, **OFF, slots=np.arange(6), count=6)
  np.testing.assert_array_equal(found, PIXELS)


def test_every_move_is_as_likely():
  """A single bright pixel tells where its image went."""
  image = np.zeros((1, 5, 5, 1), np.uint8)
  image[0, 2, 2] = 255
  many = np.broadcast_to(image, (9000, 5, 5, 1))
  found = augment.augment(
    many, flip=False, shift=1, seed=3, step=5, slots=np.arange(9000), count=9000
  )
  counts = (found[..., 0] == 255).sum(axis=0)[1:4, 1:4]
  assert counts.sum() == 9000
  assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 8 / 9)


def test_an_image_keeps_its_draw_in_other_company():
  options = {"flip": True, "shift": 1, "seed": 1, "step": 2, "count": 50}
  slots = np.array([40, 3, 17, 8, 9, 31])
  whole = augment.augment(PIXELS.copy(), **options, slots=slots)
  part = augment.augment(PIXELS[2:4].copy(), **options, slots=slots[2:4])
  np.testing.assert_array_equal(whole[2:4], part)


def test_moves_of_batches_follow_the_step_alone():
  def build():
    rows = np.arange(6)
    return Batches(PIXELS, None, rows, batch=4, seed=0, flip=False, shift=2)

  batches = build()
  batches.at(0)
  np.testing.assert_array_equal(batches.at(3)["image"], build().at(3)["image"])
  plain = PIXELS[batches.at(3)["row"]]
  assert (batches.at(3)["image"] != plain).any()


@pytest.mark.parametrize("shift", [-1, 4])
def test_moves_out_of_the_picture_are_refused(shift):
  with pytest.raises(ValueError, match=r"expected 0 \(no moves\) to 3 pixels"):
    augment.check((4, 5, 3), shift)

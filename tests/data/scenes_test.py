# SPDX-License-Identifier: Apache-2.0
import collections

import numpy as np
import pytest
from sklearn import datasets

from diffmem import data
from diffmem.data import scenes


def test_what_the_caption_says_is_in_the_image():
  """Each quarter is a real digit of the class named there, or empty."""
  made = data.load("scenes:40x6")
  levels, labels = datasets.load_digits(return_X_y=True)
  pixels = np.round(levels * (255 / 16)).astype(np.uint8)
  known = {
    image.tobytes(): label for image, label in zip(pixels, labels, strict=True)
  }
  assert made.images.shape == (240, 16, 16, 1)
  for image, text in zip(made.images, made.captions, strict=True):
    said = []
    for at, place in enumerate(scenes.PLACES):
      top, left = 8 * (at // 2), 8 * (at % 2)
      quarter = image[top : top + 8, left : left + 8]
      if quarter.any():
        digit = scenes.DIGITS[known[quarter.tobytes()]]
        said.append(f"a {digit} {place}")
    assert text == ", ".join(said)


def test_captions_are_shared_and_images_are_not():
  made = data.load("scenes")
  assert len(made) == 2000
  counts = collections.Counter(made.captions)
  assert len(counts) == 200
  assert set(counts.values()) == {10}
  assert len(np.unique(made.images.reshape(2000, -1), axis=0)) == 2000
  np.testing.assert_array_equal(made.ids, np.arange(2000))
  sizes = collections.Counter(text.count(",") + 1 for text in counts)
  assert set(sizes) == {1, 2, 3, 4}


def test_the_scenes_are_the_same_for_everybody():
  made = data.load("scenes:3x2")
  assert made.captions[::2] == KNOWN
  again = data.load("scenes:4x2")
  np.testing.assert_array_equal(again.images[:6], made.images)
  assert made.info["sha256"] == SHA


KNOWN = (
  "a one top left, a zero bottom left, a nine bottom right",
  "a five top left, a four bottom left, a three bottom right",
  "a one top left, a five top right, a two bottom left, a zero bottom right",
)
SHA = "22207695c65b47069ac1344ea970f896098e62d6d366e7d2b6164cd0c9f9632e"


@pytest.mark.parametrize(
  "argument", ["5", "0x3", "3x0", "3x151", "5001x1", "x"]
)
def test_other_sizes_are_refused(argument):
  with pytest.raises(
    ValueError, match="expected scenes or scenes:CAPTIONSxEACH"
  ):
    data.load(f"scenes:{argument}")


def test_the_largest_can_be_made():
  assert len(scenes.layouts(scenes.MOST[0])) == scenes.MOST[0]

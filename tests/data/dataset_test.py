# SPDX-License-Identifier: Apache-2.0
import types

import numpy as np
import pytest

from diffmem.data.dataset import Dataset, duplicate_of, fingerprint

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (4, 2, 3, 1), dtype=np.uint8)
IDS = np.array([2, 3, 5, 8])


def test_images_are_taken_by_id():
  dataset = Dataset(PIXELS, IDS)
  np.testing.assert_array_equal(dataset.take([8, 2, 8]), PIXELS[[3, 0, 3]])
  np.testing.assert_array_equal(dataset.rows(np.array([3, 5])), [1, 2])
  assert dataset.take([]).shape == (0, 2, 3, 1)
  for unknown in (0, 4, 9):
    with pytest.raises(ValueError, match=f"1 ids are not .*, {unknown} the"):
      dataset.take([2, unknown, unknown])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"images": PIXELS[..., 0]}, "expected .b h w c."),
    ({"images": PIXELS.astype(np.float32)}, "are float32: expected uint8"),
    ({"images": PIXELS[:0], "ids": IDS[:0]}, "no images"),
    ({"images": np.zeros((4, 2, 3, 2), np.uint8)}, "c = 1 or 3"),
    ({"ids": IDS[::-1]}, "ids must ascend"),
    ({"ids": np.array([2, 3, 3, 8])}, "each once"),
    ({"ids": IDS - 3}, "one is -1"),
    ({"ids": IDS + 2**32}, "must be in 0"),
    ({"ids": IDS[:3]}, "3 ids for 4 images"),
    ({"ids": IDS / 2}, "float64"),
    ({"labels": np.zeros(3, int)}, "3 labels for 4 images"),
    ({"labels": -np.ones(4, int)}, "one is -1"),
    ({"captions": ("a",)}, "1 captions for 4 images"),
    ({"names": ("a",)}, "1 names for 4 images"),
  ],
)
def test_what_does_not_fit_together_is_refused(change, message):
  # Not through the constructor, where the tests' type checker comes first.
  fields = vars(Dataset(PIXELS, IDS)) | change
  with pytest.raises(ValueError, match=message):
    Dataset.__post_init__(types.SimpleNamespace(**fields))


def test_the_fingerprint_is_of_values_types_and_shapes():
  one = np.arange(6)
  same = np.arange(12)[::2] // 2
  assert fingerprint(one) == fingerprint(same)
  others = [
    (one[::-1],),
    (one.reshape(2, 3),),
    (one.astype(np.int32),),
    (one[:3], one[3:]),
    (np.arange(7),),
  ]
  found = {fingerprint(*other) for other in others} | {fingerprint(one)}
  assert len(found) == 6
  assert fingerprint(np.zeros(0), np.array([], np.str_))


def test_duplicates_point_to_the_first_of_them():
  images = PIXELS[[0, 1, 0, 2, 1, 0]]
  np.testing.assert_array_equal(duplicate_of(images), [0, 1, 0, 3, 1, 0])
  images[2, 0, 0, 0] ^= 1
  np.testing.assert_array_equal(duplicate_of(images), [0, 1, 2, 3, 1, 0])

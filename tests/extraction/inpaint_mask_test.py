# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from diffmem.extraction import inpaint_mask

SHAPE = (4, 6, 3)


def save(path, levels):
  Image.fromarray(np.asarray(levels, np.uint8)).save(path)
  return str(path)


def test_halves_are_hidden():
  left = inpaint_mask.known("left", SHAPE)
  assert left.shape == (4, 6, 1)
  assert left[..., 0].tolist() == [[False] * 3 + [True] * 3] * 4
  np.testing.assert_array_equal(~left, inpaint_mask.known("right", SHAPE))
  top = inpaint_mask.known("top", (5, 2, 1))[..., 0]
  assert top.all(1).tolist() == [False, False, True, True, True]
  bottom = inpaint_mask.known("bottom", (5, 2, 1))[..., 0]
  assert bottom.all(1).tolist() == [True, True, True, False, False]


def test_white_is_hidden(tmp_path):
  levels = np.zeros((4, 6))
  levels[1, 2] = 255
  known = inpaint_mask.known(save(tmp_path / "m.png", levels), SHAPE)
  np.testing.assert_array_equal(known[..., 0], levels == 0)


@pytest.mark.parametrize(
  ("levels", "words"),
  [
    (np.zeros((6, 4)), r"m.png is 4 x 6, the images are 6 x 4"),
    (np.zeros((4, 6)), "hides nothing of the 6 x 4 pixels: hide at least one"),
    (np.full((4, 6), 255), "hides all of the 6 x 4 pixels: show at least one"),
    (np.eye(4, 6) * 200, "grey level 200: expected black"),
  ],
)
def test_masks_that_are_refused(tmp_path, levels, words):
  with pytest.raises(ValueError, match=words) as error:
    inpaint_mask.known(save(tmp_path / "m.png", levels), SHAPE)
  assert "\n" not in str(error.value)


def test_what_is_no_mask(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"'lfet' is no file.*left"):
    inpaint_mask.known("lfet", SHAPE)
  (tmp_path / "m.png").write_text("no picture")
  with pytest.raises(ValueError, match="cannot be read as a picture"):
    inpaint_mask.known(str(tmp_path / "m.png"), SHAPE)

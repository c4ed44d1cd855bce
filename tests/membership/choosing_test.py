# SPDX-License-Identifier: Apache-2.0
"""Who chooses, who sets thresholds, who is reported on."""

import numpy as np
import pytest

from diffmem.membership import choosing

COPIES = np.repeat([1, 5, 0, 0], [60, 6, 50, 30])
CALIBRATION = np.arange(len(COPIES)) >= 116


def draw(share=0.2, seed=0):
  return choosing.draw(COPIES, CALIBRATION, share=share, seed=seed)


def test_classes_are_drawn_apart():
  parts = draw()
  assert parts.count(parts.choose) == {"members": 12, "non_members": 10}
  assert parts.count(parts.report) == {"members": 48, "non_members": 40}
  assert not parts.choose[COPIES == 5].any()  # planted images never choose
  assert parts.report[COPIES == 5].all()
  parted = np.stack([parts.choose, parts.calibration, parts.report])
  assert (parted.sum(0) == 1).all()


def test_half_of_those_who_choose_may_be_learnt_from():
  parts = draw()
  assert parts.count(parts.fit) == {"members": 6, "non_members": 5}
  assert not (parts.fit & ~parts.choose).any()


def test_a_pool_of_shadows_is_one_class():
  none = np.zeros(len(COPIES), int)
  parts = choosing.draw(none, CALIBRATION, share=0.25, seed=0)
  assert parts.count(parts.choose) == {"members": 0, "non_members": 29}


def test_drawn_from_the_seed():
  np.testing.assert_array_equal(draw().choose, draw().choose)
  assert (draw().choose != draw(seed=1).choose).any()
  assert not draw(share=0.0).choose.any()


def test_a_new_calibration_image_moves_nothing():
  fewer = choosing.draw(COPIES[:-5], CALIBRATION[:-5], share=0.2, seed=0)
  np.testing.assert_array_equal(fewer.choose, draw().choose[:-5])


@pytest.mark.parametrize(
  ("share", "message"),
  [
    (1.0, "expected at least 0, less than 1"),
    (-0.1, "expected at least 0"),
    (0.999, "60 members seen once is 60: some must choose"),
    (0.009, "held-out images is 0|60 members seen once is 1"),
    (0.001, "60 members seen once is 0"),
  ],
)
def test_shares_that_cannot_be(share, message):
  with pytest.raises(ValueError, match=message):
    draw(share=share)


def test_a_calibration_image_in_training():
  with pytest.raises(ValueError, match="must be outside training"):
    choosing.draw(COPIES, COPIES == 1, share=0.2, seed=0)


def test_the_best_time():
  rng = np.random.default_rng(0)
  shift = np.array([0.0, 2.0, 0.5])
  member = rng.normal(size=(200, 3)) + shift[None]
  non_member = rng.normal(size=(200, 3))
  for criterion in ("auc", "tpr@0.01"):
    assert choosing.best_time(member, non_member, criterion) == 1
  constant = np.zeros((100, 3))
  assert choosing.best_time(constant, constant, "auc") == 0
  # The direction is never chosen: a reversed score is worse, not better.
  assert choosing.best_time(member * [[1, -9, 1]], non_member, "auc") != 1


def test_the_two_criteria_may_differ():
  """A few members far out, or all of them a little."""
  far = np.r_[np.full(20, 9.0), np.linspace(-3, 0, 180)]
  little = np.linspace(-1, 2, 200)
  member = np.stack([far, little], axis=1)
  non_member = np.tile(np.linspace(-2, 1.9, 200)[:, None], (1, 2))
  assert choosing.best_time(member, non_member, "auc") == 1
  assert choosing.best_time(member, non_member, "tpr@0.01") == 0


def test_a_criterion_that_so_few_cannot_tell():
  few = np.zeros((50, 2))
  with pytest.raises(ValueError, match=r"50 non-members that choose.*have 100"):
    choosing.best_time(few, few, "tpr@0.01")
  with pytest.raises(ValueError, match="criterion = 'best': expected one of"):
    choosing.best_time(few, few, "best")


def test_thresholds_keep_their_rate_on_average():
  """K / (m + 1) of fresh non-members, for any number that sets them."""
  rng = np.random.default_rng(1)
  for m, k in ((99, 1), (150, 1), (599, 6)):
    realised = [
      1 - scores_below(choosing.threshold(rng.random(m), 0.01))
      for _ in range(4000)
    ]
    expected = k / (m + 1)
    assert np.mean(realised) == pytest.approx(expected, rel=0.06)
    assert expected <= 0.01


def scores_below(cut):
  return min(cut, 1.0)  # of uniform scores


def test_thresholds_of_ties_and_of_too_few():
  assert choosing.threshold(np.arange(98.0), 0.01) is None
  cut = choosing.threshold(np.zeros(500), 0.01)
  assert cut > 0
  assert not (np.zeros(500) >= cut).any()

# SPDX-License-Identifier: Apache-2.0
"""The numbers of one attack: apart, chosen, transferred, refused."""

import csv
import io

import numpy as np
import pytest

from diffmem import stats
from diffmem.membership import choosing, evaluate

COPIES = np.repeat([1, 4, 0, 0], [300, 5, 250, 200])
CALIBRATION = np.arange(len(COPIES)) >= 555
TIMES = (10, 100, 300)


@pytest.fixture(scope="module")
def parts():
  return choosing.draw(COPIES, CALIBRATION, share=0.3, seed=0)


@pytest.fixture(scope="module")
def scores():
  rng = np.random.default_rng(0)
  shift = (COPIES > 0)[:, None] * np.array([[0.3, 1.5, 0.7]])
  return rng.normal(size=(len(COPIES), 3)) + shift


def go(scores, parts, calibration=True, **change):
  options = {
    "headline_t": None,
    "criterion": "auc",
    "bootstrap": 60,
    "seed": 0,
  } | change
  return evaluate.attack(
    scores[None],
    TIMES,
    evaluate.of_parts(parts),
    calibration=scores[None, parts.calibration] if calibration else None,
    **options,
  )


def test_a_time_is_chosen_and_reported_on_others(scores, parts):
  found, row = go(scores, parts)
  assert (row, found["t"]) == (1, 100)
  assert found["chosen"] == {
    "t": 100,
    "criterion": "auc",
    "on": {"members": 90, "non_members": 75},
  }
  assert (found["members"], found["non_members"]) == (210, 175)
  report = parts.report
  member = scores[report & (COPIES == 1), 1]
  non_member = scores[report & (COPIES == 0), 1]
  assert found["auc"][0] == pytest.approx(stats.auc(member, non_member))
  assert found["tpr@0.001"] is None
  assert [e["exploratory"] for e in found["sweep"]] == [True, False, True]
  assert found["sweep"][1]["auc"] == found["auc"]


def test_scores_of_reported_images_choose_nothing(scores, parts):
  """Whatever they are, the time and the threshold stay."""
  other = scores.copy()
  other[parts.report] = -other[parts.report]
  found, row = go(other, parts)
  plain, _ = go(scores, parts)
  assert row == 1
  assert found["auc"][0] < 0.5 < plain["auc"][0]
  assert found["transferred"]["threshold"] == plain["transferred"]["threshold"]


def test_a_time_fixed_in_advance(scores, parts):
  found, row = go(scores, parts, headline_t=300)
  assert (row, found["t"], found["chosen"]) == (2, 300, None)


def test_a_threshold_carried_over(scores, parts):
  found = go(scores, parts)[0]["transferred"]
  assert (found["fpr"], found["set_on"]) == (0.01, 200)
  cut = choosing.threshold(scores[CALIBRATION, 1], 0.01)
  assert found["threshold"] == cut
  non_member = scores[parts.report & (COPIES == 0), 1]
  k = int((non_member >= cut).sum())
  assert found["realised_fpr"] == [k / 175, *stats.clopper_pearson(k, 175)]
  member = scores[parts.report & (COPIES == 1), 1]
  k = int((member >= cut).sum())
  assert found["tpr"] == [k / 210, *stats.clopper_pearson(k, 210)]


def test_without_calibration_those_who_choose_set_it(scores, parts):
  assert go(scores, parts, calibration=False)[0]["transferred"] is None  # 75
  wide = choosing.draw(COPIES, CALIBRATION, share=0.5, seed=0)
  found = go(scores, wide, calibration=False)[0]["transferred"]
  assert (found["set_by"], found["set_on"]) == (
    "non-members that choose",
    125,
  )


def test_several_models():
  rng = np.random.default_rng(2)
  half = rng.random((3, 400)) < 0.5
  inside = np.stack([half, ~half], 1).reshape(6, 400)
  scores = rng.normal(size=(6, 400, 3)) + inside[..., None] * [[[0, 0.5, 2]]]
  choose = np.arange(400) < 80
  design = evaluate.Design(inside, choose, ~choose)
  found, row = evaluate.attack(
    scores,
    TIMES,
    design,
    calibration=None,
    headline_t=None,
    criterion="tpr@0.01",
    bootstrap=50,
    seed=0,
  )
  assert row == 2
  assert found["chosen"]["on"] == {"members": 240, "non_members": 240}
  assert found["members"] == found["non_members"] == 960
  member, non_member = design.pairs(scores[:, :, 2], design.report)
  assert found["auc"][0] == pytest.approx(stats.auc(member, non_member))
  assert found["transferred"]["set_on"] == 240
  low, high = found["transferred"]["realised_fpr"][1:]
  assert low <= 0.01 <= high


def test_planted_images_are_told_apart(scores, parts):
  found = evaluate.by_copies(scores[:, 1], parts, bootstrap=20, seed=0)
  assert list(found) == ["4"]
  never = scores[parts.report & (COPIES == 0), 1]
  assert found["4"][0] == pytest.approx(stats.auc(scores[300:305, 1], never))


def test_scores_that_cannot_be(scores, parts):
  bad = scores.copy()
  bad[3, 2] = np.nan
  with pytest.raises(ValueError, match=r"1 of 2265 scores.*\(t = 300\)"):
    go(bad, parts)
  with pytest.raises(ValueError, match=r"every score at t = 10 is 0: const"):
    go(np.zeros_like(scores), parts)


def test_the_table(scores, parts):
  ids = np.arange(len(COPIES)) * 2
  text = evaluate.scores_csv(ids, parts, {"loss": scores[:, 1]})
  rows = list(csv.DictReader(io.StringIO(text)))
  assert len(rows) == 555  # no calibration images
  assert list(rows[0]) == ["id", "member", "copies", "used", "loss"]
  used = np.array([row["used"] == "choose" for row in rows])
  np.testing.assert_array_equal(used, parts.choose[:555])
  assert float(rows[7]["loss"]) == pytest.approx(scores[7, 1])

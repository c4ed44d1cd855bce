# SPDX-License-Identifier: Apache-2.0
"""Controls pass on what is fair, and fail on what is not."""

import functools

import numpy as np
import pytest

from diffmem import stats
from diffmem.membership import choosing, controls, lira, matrices
from diffmem.membership.evaluate import Design, of_parts

COPIES = np.repeat([1, 0, 0], [300, 300, 200])
CALIBRATION = np.arange(800) >= 600
RULE = {"headline": None, "criterion": "auc", "seed": 0}


@pytest.fixture(scope="module")
def design():
  parts = choosing.draw(COPIES, CALIBRATION, share=0.3, seed=0)
  return of_parts(parts)


def test_noise_scores_half_and_keeps_the_rate(design):
  found = controls.random(design, 4, 200, draws=150, **RULE)
  assert found["passes"]
  assert found["mean_auc"] == pytest.approx(0.5, abs=0.01)
  assert found["mean_realised_fpr"] == pytest.approx(2 / 201, rel=0.25)
  low, high = found["middle_95"]
  assert 0.42 < low < 0.48
  assert 0.52 < high < 0.58
  assert "pure noise have an AUC of 0.5" in found["says"]


def test_choosing_on_the_reported_images_is_caught():
  """Many times to choose from, and the same images to choose and report."""
  every = np.ones(120, bool)
  leaky = Design(np.arange(120)[None] < 60, every, every)
  found = controls.random(leaky, 30, 0, draws=60, **RULE)
  assert not found["passes"]
  assert found["mean_auc"] > 0.55


def pairs(models, n):
  half = np.random.default_rng(1).random((models // 2, n)) < 0.5
  return np.stack([half, ~half], axis=1).reshape(models, n)


def test_shadow_attacks_on_noise():
  """Pairs left out: fair. One model left out: its counts betray it."""
  inside = pairs(8, 150)
  choose = np.arange(150) < 30
  design = Design(inside, choose, ~choose)
  online = functools.partial(lira.score, variant="online")

  def fair(losses):
    return matrices.leave_pair_out(online, losses, inside)

  def leaky(losses):
    """How many of the other models hold an image, its own pair included."""
    counts = [np.delete(inside, m, axis=0).sum(axis=0) for m in range(8)]
    return 1e-3 * losses - counts

  found = controls.random(design, 1, 0, draws=20, score=fair, **RULE)
  assert found["passes"], found
  assert not controls.random(design, 1, 0, draws=8, score=leaky, **RULE)[
    "passes"
  ]


def test_labels_exchanged(design):
  rng = np.random.default_rng(2)
  scores = rng.normal(size=(1, 800, 3)) + (COPIES == 1)[None, :, None]
  report = design.pairs(scores[:, :, 0], design.report)
  observed = stats.auc(*report)
  found = controls.shuffled(scores, design, observed, permutations=120, **RULE)
  assert found["passes"]
  assert found["mean_auc"] == pytest.approx(0.5, abs=0.02)
  assert found["p"] == pytest.approx(1 / 121)  # none reaches it
  assert "0 reach the" in found["says"]
  nothing = controls.shuffled(scores, design, 0.5, permutations=120, **RULE)
  assert 0.3 < nothing["p"] < 0.7


def test_permutations_equal_the_plain_auc(design):
  """Ranks reused over permutations give the AUC of the exchanged labels."""
  rng = np.random.default_rng(3)
  scores = rng.normal(size=(1, 800, 1)).round(1)
  found = controls.shuffled(scores, design, 1.0, permutations=2, **RULE)
  rng, aucs = np.random.default_rng(0), []
  for _ in range(2):
    order = np.arange(800)
    for where in (design.choose, design.report):
      images = np.flatnonzero(where)
      order[images] = rng.permutation(images)
    other = Design(design.inside[:, order], design.choose, design.report)
    aucs.append(stats.auc(*other.pairs(scores[:, :, 0], design.report)))
  assert found["mean_auc"] == pytest.approx(np.mean(aucs))


def test_non_members_against_non_members():
  rng = np.random.default_rng(4)
  scores = rng.normal(size=(1, 800))
  held_out = ((COPIES == 0) & ~CALIBRATION)[None]
  options = {"attacks": 5, "bootstrap": 200, "seed": 0}
  fair = controls.others(scores, held_out, CALIBRATION, **options)
  assert fair["passes"]
  assert fair["images"] == [300, 200]
  assert fair["auc"][0] == pytest.approx(
    stats.auc(scores[held_out], scores[0, CALIBRATION])
  )
  assert "does not tell" in fair["says"]
  shifted = scores + 0.5 * held_out
  found = controls.others(shifted, held_out, CALIBRATION, **options)
  assert not found["passes"]
  assert "differ by more than chance" in found["says"]


def test_non_members_of_several_targets():
  """Members are left out under the models that they belong to."""
  rng = np.random.default_rng(5)
  inside = np.hstack([pairs(6, 200), np.zeros((6, 100), bool)])
  calibration = np.arange(300) >= 200
  hard = rng.normal(size=300)[None]
  scores = rng.normal(size=(6, 300)) + hard + 5 * inside
  outside = ~inside & ~calibration[None]
  options = {"attacks": 1, "bootstrap": 200, "seed": 0}
  found = controls.others(scores, outside, calibration, **options)
  assert found["passes"]
  assert found["auc"][2] - found["auc"][1] > 0.08  # of images, not of pairs


def test_generated_images():
  rng = np.random.default_rng(5)
  shift = np.array([[3.0], [0.0], [1.0]])
  drawn, never, member = rng.normal(size=(3, 200)) + shift
  options = {"bootstrap": 50, "seed": 0}
  found = controls.generated(drawn, never, member, 2.0, **options)
  assert found["passes"] is None
  k = int((drawn >= 2).sum())
  assert found["called_members"] == [
    k / 200,
    *stats.clopper_pearson(k, 200),
  ]
  assert found["auc_against_non_members"][0] > 0.95
  assert found["auc_of_members_against_them"][0] < 0.5
  silent = controls.generated(drawn, never, member, None, **options)
  assert silent["called_members"] is None

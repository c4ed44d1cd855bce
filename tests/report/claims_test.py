# SPDX-License-Identifier: Apache-2.0
"""Which attack is named first, and what papers say that a run tests."""

import pytest
import scipy.stats

from diffmem.report import claims, verdict


def test_the_attack_of_the_first_sentence_is_named_by_a_rule(attacks):
  assert claims.leading(attacks) == "lira"  # although rmia has the best AUC
  del attacks["lira"]
  assert claims.leading(attacks) == "rmia"  # the first with shadow models
  for name in ("rmia", "gradients"):
    del attacks[name]
  assert claims.leading(attacks) == "loss"  # the first, although pia is better
  assert claims.leading({}) is None
  assert claims.leading({"loss": {"auc": None}}) is None


def test_the_best_is_told_as_the_best_of_so_many(attacks, attack):
  name, (value, low, high), count = claims.best(attacks)
  assert (name, value, count) == ("rmia", 0.97, 8)
  assert low < 0.95
  assert 0.99 < high < 1
  said = verdict.membership(attacks, {})
  assert (
    "lira attack picks the training image with probability 0.950" in (said[0])
  )
  assert "by a rule that looks at no result" in said[2]
  assert "Of all 8 attacks rmia has the highest AUC, 0.970" in said[2]
  assert "best of 8" in said[2]
  assert len(said) == 3
  said = verdict.membership({"loss": attack(0.9, 0.5), "pia": attack(0.6, 0.1)})
  assert said[-1].endswith("Of all 2 attacks it also has the highest AUC.")


def test_the_interval_of_the_best_is_bonferronis():
  value, low, high = claims.allowed([0.7, 0.68, 0.72], 10)
  ratio = scipy.stats.norm.isf(0.0025) / scipy.stats.norm.isf(0.025)
  want = scipy.special.logit(0.7) - ratio * (
    scipy.special.logit(0.7) - scipy.special.logit(0.68)
  )
  assert value == 0.7
  assert low == pytest.approx(scipy.special.expit(want))
  assert high > 0.72
  assert claims.allowed([0.7, 0.68, 0.72], 1) == pytest.approx(
    [0.7, 0.68, 0.72]
  )
  assert claims.allowed([1.0, 0.9, 1.0], 5) == [1.0, 0.9, 1.0]


def told(attacks, beside, words):
  rows = claims.tested(attacks, beside)
  return next(row for row in rows if words in row["claim"])


def test_claims_hold_fail_or_stay_open(attacks):
  row = told(attacks, {}, "LiRA recognises more than one threshold")
  assert row["holds"] is True
  assert "lira recognises 50% (48% to 52%)" in row["says"]
  assert "the loss threshold 10% (8% to 12%)" in row["says"]
  attacks["lira"]["tpr@0.01"] = [0.11, 0.09, 0.13]
  assert told(attacks, {}, "LiRA recognises")["holds"] is None
  attacks["lira"]["tpr@0.01"] = [0.05, 0.04, 0.06]
  assert told(attacks, {}, "LiRA recognises")["holds"] is False
  attacks["lira"]["tpr@0.01"] = None
  assert not [
    r for r in claims.tested(attacks, {}) if r["claim"].startswith("LiRA")
  ]


def test_other_attacks_are_sorted_by_what_they_do(attacks):
  row = told(attacks, {}, "other attacks recognise more")
  assert row["holds"] is False
  assert "clearly more: pia 30%, sima 20% and gradients 15%" in row["says"]
  assert "not told apart: secmi 9%" in row["says"]
  assert "clearly less: pian 1%" in row["says"]


def test_draws_augmentation_and_time(attacks):
  assert told(attacks, {}, "noise draws helps (lira)")["holds"] is True
  assert told(attacks, {}, "noise draws helps (loss)")["holds"] is True
  row = told(attacks, {}, "over augmentations helps (lira)")
  assert row["holds"] is True
  assert "With identity alone" in row["says"]
  row = told(attacks, {}, "noise level")
  assert row["holds"] is True
  assert "inside for loss (t = 30)" in row["says"]
  for entry in attacks["pia"]["sweep"]:
    entry["auc"] = [1 - entry["t"] / 1000, 0.0, 1.0]
  row = told(attacks, {}, "noise level")
  assert row["holds"] is None
  assert "at the lower end for pia (t = 10), where times beyond" in row["says"]
  row = told({"pia": attacks["pia"]}, {}, "noise level")
  assert row["holds"] is False


def test_training_outliers_and_copies(attack):
  beside = {
    "_by_step": {
      "steps": [
        {"step": 1500, "auc": [0.7, 0.69, 0.71]},
        {"step": 3000, "auc": [0.8, 0.79, 0.81]},
      ]
    },
    "_images": {
      "attack": "lira",
      "isolation": {
        "neighbours": 5,
        "members": {"rho": -0.3, "p": 1e-9, "images": 300},
        "gap": {"rho": -0.4, "p": 1e-12, "images": 300},
      },
    },
  }
  row = told({}, beside, "Longer training")
  assert row["holds"] is True
  assert "goes from 0.700 (0.690 to 0.710) to 0.800" in row["says"]
  row = told({}, beside, "Images unlike all others")
  assert row["holds"] is False  # the correlation is negative
  assert "−0.40 over 300 images" in row["says"]
  beside["_images"]["isolation"]["gap"]["p"] = 0.2
  assert told({}, beside, "Images unlike")["holds"] is None
  attacks = {"loss": attack(0.8, 0.1, by_copies={"50": [1.0, 0.99, 1.0]})}
  assert told(attacks, {}, "several times")["holds"] is True

# SPDX-License-Identifier: Apache-2.0
"""The membership part of the page: what is named, claimed, and controlled."""

import html.parser
import io
import math

import numpy as np
import pytest
import scipy.stats

from diffmem.report import (
  checks,
  claims,
  figures_membership,
  membership,
  page,
  results,
  verdict,
)

HOSTILE = "<script>alert(1)</script> $\\frac{1}{0}$"


def attack(auc, tpr, width=0.02, kind="model", t=(10, 30, 100), **more):
  """An attack whose numbers have intervals of one width."""

  def ends(x):
    return [x, max(x - width, 0.0), min(x + width, 1.0)]

  peak = {10: 0.1, 30: 0.0, 100: 0.05}
  return {
    "auc": ends(auc),
    "tpr@0.01": ends(tpr),
    "tpr@0.001": None,
    "t": 30,
    "kind": kind,
    "models": 8,
    "members": 400,
    "non_members": 400,
    "chosen": {"t": 30, "criterion": "auc", "on": {}},
    "transferred": {
      "fpr": 0.01,
      "threshold": 1.0,
      "set_by": "calibration images",
      "set_on": 599,
      "realised_fpr": [0.03, 0.02, 0.04],
      "tpr": ends(tpr),
    },
    "sweep": [
      {"t": x, "auc": ends(auc - peak[x]), "tpr@0.01": ends(tpr)} for x in t
    ],
    "by_draws": [
      {
        "draws": d,
        "augment": views,
        "auc": ends(auc - 0.1 / d),
        "tpr@0.01": ends(tpr * (1 - 0.5 / d) * (1 + 0.1 * (len(views) - 1))),
      }
      for views in (["identity"], ["identity", "flip"])
      for d in (1, 16)
    ],
    **more,
  }


def several():
  """Eight attacks, those with shadow models last, as a run leaves them."""
  return {
    "loss": attack(0.80, 0.10),
    "pia": attack(0.85, 0.30),
    "secmi": attack(0.70, 0.09),
    "pian": attack(0.40, 0.01),
    "rmia": attack(0.97, 0.60, kind="shadow", attack="rmia"),
    "lira": attack(0.95, 0.50, kind="shadow", attack="lira"),
    "sima": attack(0.82, 0.20),
    "gradients": attack(0.81, 0.15, kind="shadow", attack="gradients"),
  }


def says(passes, text, **more):
  return {"passes": passes, "says": text, **more}


def aside():
  """What stands beside the attacks, some of it failed."""
  canary = {
    "canaries": 4,
    "at_most": 2,
    "values": [10.0, 10.0, 6.0, 2.0],
    "mean": 7.0,
  }
  return {
    "_parts": {"choose": {"members": 96, "non_members": 97}},
    "_controls": {
      "blind": says(False, "By pixels alone they can be told apart."),
      "random": {
        name: says(True, "noise", mean_auc=0.5, mean_realised_fpr=0.011)
        | {"nominal_fpr": 0.01}
        for name in ("scores", "lira")
      },
      "shuffled": {"loss": says(True, "shuffled loss", mean_auc=0.5)},
      "non_members": {
        "loss": says(True, "the same", auc=[0.5, 0.4, 0.6]),
        "pia": says(False, "not the same", auc=[0.7, 0.6, 0.8]),
      },
      "generated": {"skipped": "nothing was sampled"},
    },
    "_by_step": {
      "t": 30,
      "steps": [
        {
          "step": s,
          "loss_of_members": m,
          "loss_of_non_members": 0.7,
          "auc": [a, a - 0.01, a + 0.01],
          "tpr@0.01": [a / 10, 0.0, 0.2],
        }
        for s, m, a in ((1500, 0.65, 0.7), (3000, 0.55, 0.8))
      ],
    },
    "_images": {
      "attack": "lira",
      "groups": {
        "members_found": {
          "ids": [7, 8],
          "scores": [58.1, -2.5],
          "copies": [50, 1],
          "isolation": [0.2, 0.1],
        }
      },
      "isolation": {
        "neighbours": 5,
        "members": {"rho": -0.3, "p": 1e-9, "images": 300},
        "gap": {"rho": -0.4, "p": 1e-12, "images": 300},
      },
      "copies": {"rho": 0.36, "p": 1e-9, "images": 300},
    },
    "_joined": {
      "loss": {
        "extracted": 19,
        "members": 484,
        "auc": [0.975, 0.92, 1.0],
        "top": {"0.01": [5, 5], "0.1": [18, 48]},
        "once": {"extracted": 1, "members": 462, "auc": None, "top": {}},
      }
    },
    "_audits": {
      "canaries": {
        "inserted": 40,
        "noise": {
          "t": 30,
          "reference": 1024,
          "most": 10.0,
          "by_copies": {
            "0": canary | {"p": 0.4, "mean": 1.5},
            "16": canary | {"p": 1e-9},
            "2": canary | {"p": 0.3},
          },
        },
      },
      "one_run": {
        "images": 900,
        **{
          name: {
            "epsilon": e,
            "images": 600,
            "guesses": 60,
            "correct": 55,
            "delta": 1e-5,
            "significance": 0.05,
            "in_alone": None,
            "rates": 3.0,
          }
          for name, e in (("loss", 1.25), ("pia", 1.5))
        },
      },
      "sets": {
        "attacks": ["loss", "pia"],
        "alpha": 0.01,
        "resamples": 50,
        "by_size": [
          {
            "size": n,
            "power": [p, p - 0.1, p + 0.1],
            "control": [c, c - 0.02, c + 0.1],
            "median_p": 1e-4,
          }
          for n, p, c in ((20, 0.3, 0.02), (50, 0.9, 0.2))
        ],
      },
    },
  }


class Page(html.parser.HTMLParser):
  """Text, and the tags in order."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.text = [], ""
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))

  def handle_data(self, data):
    self.text += data


def pictures():
  images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
  return {"members_found_images": images, "members_found_ids": [7, 8]}


def found(attacks, beside):
  line = np.linspace(0, 1, 2000)
  return results.Results(
    metas={},
    unfinished=(),
    data=None,
    extraction=None,
    pairs={},
    membership=attacks,
    membership_aside=beside,
    membership_pictures=pictures(),
    curves={name: (line, np.sqrt(line)) for name in attacks},
    metrics=[],
    previews=[],
    tables={},
  )


def shown(attacks, beside):
  made = page.render(found(attacks, beside), title="Digits", gallery=4)
  return Page(made)


@pytest.fixture(scope="module")
def whole():
  """The page with everything on it."""
  return shown(several(), aside())


def test_the_attack_of_the_first_sentence_is_named_by_a_rule():
  attacks = several()
  assert claims.leading(attacks) == "lira"  # although rmia has the best AUC
  del attacks["lira"]
  assert claims.leading(attacks) == "rmia"  # the first with shadow models
  for name in ("rmia", "gradients"):
    del attacks[name]
  assert claims.leading(attacks) == "loss"  # the first, although pia is better
  assert claims.leading({}) is None
  assert claims.leading({"loss": {"auc": None}}) is None


def test_the_best_is_told_as_the_best_of_so_many():
  name, (value, low, high), count = claims.best(several())
  assert (name, value, count) == ("rmia", 0.97, 8)
  assert low < 0.95
  assert 0.99 < high < 1
  said = verdict.membership(several(), {})
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


def test_failed_controls_and_attacks_below_guessing_are_in_the_first_lines():
  said = " ".join(verdict.membership(several(), aside()))
  assert "2 of 6 controls of membership failed" in said
  assert "By pixels alone they can be told apart." in said
  said = verdict.membership({"pian": attack(0.4, 0.01)}, {})
  assert "worse than guessing" in said[0]


def told(attacks, beside, words):
  rows = claims.tested(attacks, beside)
  return next(row for row in rows if words in row["claim"])


def test_claims_hold_fail_or_stay_open():
  attacks = several()
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


def test_other_attacks_are_sorted_by_what_they_do():
  row = told(several(), {}, "other attacks recognise more")
  assert row["holds"] is False
  assert "clearly more: pia 30%, sima 20% and gradients 15%" in row["says"]
  assert "not told apart: secmi 9%" in row["says"]
  assert "clearly less: pian 1%" in row["says"]


def test_draws_augmentation_and_time():
  attacks = several()
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


def test_training_outliers_and_copies():
  beside = aside()
  row = told({}, beside, "Longer training")
  assert row["holds"] is True
  assert "from 0.700 (0.690 to 0.710) to 0.800" in row["says"].replace(
    "goes ", ""
  )
  row = told({}, beside, "Images unlike all others")
  assert row["holds"] is False  # the correlation is negative
  beside["_images"]["isolation"]["gap"]["p"] = 0.2
  assert told({}, beside, "Images unlike")["holds"] is None
  attacks = {"loss": attack(0.8, 0.1, by_copies={"50": [1.0, 0.99, 1.0]})}
  assert told(attacks, {}, "several times")["holds"] is True


def test_page_shows_everything(whole):
  for words in (
    "With shadow models",
    "With the model alone",
    "What papers say, and this run",
    "does not hold",
    "96 members and 97 non-members",
    "Thresholds set on other images",
    "more false alarms than set",
    "Over training",
    "The easiest and the hardest images",
    "seen 50 times",
    "−2.5",
    "Are extracted images high scorers?",
    "18 of the first 48",
    "too few",
    "Controls of membership",
    "passed (2 of 2)",
    "FAILED (1 of 2)",
    "nothing was sampled",
    "Mean AUC 0.500 to 0.500; thresholds for 1% let 1.1% to 1.1% pass",
    "Noise canaries stand out (p < 0.01) when inserted 16 times; those never",
    "inserted do not, as it should be.",
    "A lower bound on ε",
    "for any ε below 1.25 (loss). Each row holds by itself; all 2 at once",
    "1.50 (pia), at 90% confidence",
    "A set of 50 images is recognised more often than not.",
    "more than the test allows",
    "pian, at some t",
  ):
    assert words in " ".join(whole.text.split()), words
  names = [a["aria-label"] for tag, a in whole.tags if tag == "svg"]
  assert len(names) == 7
  assert len([1 for tag, _ in whole.tags if tag == "img"]) == 2
  ids = [a["id"] for _, a in whole.tags if "id" in a]
  assert len(ids) == len(set(ids))
  links = [a["href"][1:] for tag, a in whole.tags if tag == "a"]
  assert set(links) <= set(ids)


def test_attacks_are_sorted_within_their_part():
  shadow, alone = membership.groups(several())
  assert [r["name"] for r in shadow["rows"]] == ["rmia", "lira", "gradients"]
  assert [r["name"] for r in alone["rows"]] == [
    "pia",
    "sima",
    "loss",
    "secmi",
    "pian",
  ]
  assert [r["name"] for r in shadow["rows"] if r["leading"]] == ["lira"]


def test_many_attacks_stay_legible():
  attacks = several() | {f"more_{i}": attack(0.6, 0.05) for i in range(20)}
  bright = figures_membership.highlighted(attacks)
  assert bright == ["lira", "loss", "rmia", "pia", "sima"]
  line = np.linspace(0, 1, 5000)
  curves = dict.fromkeys(attacks, (line, line**0.5))
  drawn = figures_membership.roc(curves, attacks)
  assert "more_3" not in drawn[drawn.index(">") :]  # in the label alone
  assert "more_3" in drawn
  assert len(drawn) < 400_000


def test_a_thinned_curve_keeps_its_ends_and_its_height():
  rng = np.random.default_rng(0)
  a, b = rng.normal(1, 1, 4000), rng.normal(0, 1, 4000)
  cuts = np.sort(np.r_[a, b])[::-1]
  fpr, tpr = ((x[:, None] >= cuts).mean(0) for x in (b, a))
  fpr, tpr = np.r_[0, fpr], np.r_[0, tpr]
  x, y = figures_membership._thinned(fpr, tpr)
  assert len(x) < 1200
  assert (x[-1], y[-1]) == (1, 1)
  assert y[0] == tpr[fpr == 0].max()
  for at in (0.001, 0.01, 0.1, 0.5):
    exact = tpr[fpr <= at].max()
    assert exact - 0.03 <= y[x <= at].max() <= exact


def test_what_is_missing_is_said():
  beside = {
    "_joined": {"skipped": "the extraction stage has not finished"},
    "_audits": {
      "canaries": {"missing": "no model was given canaries"},
      "one_run": {"missing": "inclusion was not by coins"},
      "sets": None,
    },
    "_by_step": {"skipped": "membership.by_step is off"},
  }
  text = shown({"loss": {"auc": [0.5, 0.4, 0.6]}}, beside).text
  assert "Not known: the extraction stage has not finished." in text
  assert "Not measured: no model was given canaries." in text
  assert "Not measured: inclusion was not by coins." in text
  assert "Sets of images together" not in text
  assert "Over training" not in text


def test_bounds_that_refute_nothing_are_no_proof():
  beside = aside()
  del beside["_audits"]["one_run"]["pia"]
  beside["_audits"]["one_run"]["loss"]["epsilon"] = 0.0
  assert "no proof of privacy" in checks.one_run(beside)["says"]
  assert "at once" not in checks.one_run(beside)["says"]


def test_untrusted_names_stay_text():
  beside = aside()
  beside["_controls"]["blind"]["says"] = HOSTILE
  beside["_images"]["attack"] = HOSTILE
  beside["_audits"]["canaries"][HOSTILE] = beside["_audits"]["canaries"].pop(
    "noise"
  )
  beside["_joined"] = {"skipped": HOSTILE}
  attacks = {HOSTILE: attack(0.7, 0.1, source=HOSTILE, t=(10, 30, 100))}
  made = shown(attacks, beside)
  assert HOSTILE in made.text
  assert not [tag for tag, _ in made.tags if tag == "script"]


def test_pictures_are_read_from_the_folder(tmp_path):
  packed = io.BytesIO()
  np.savez(packed, **pictures())
  folder = tmp_path / "membership"
  folder.mkdir()
  text = '{"loss": {"auc": [0.5, 0.4, 0.6]}, "_images": {"attack": "loss"}}'
  (folder / "results.json").write_text(text)
  (folder / "gallery.npz").write_bytes(packed.getvalue())
  read = results.read(tmp_path)
  assert set(read.membership_pictures) == set(pictures())
  cards = membership.gallery(read)["groups"][0]["cards"]
  assert [card["id"] for card in cards] == ["7", "8"]
  assert cards[0]["score"] == ""
  assert not math.isnan(cards[0]["picture"].width)

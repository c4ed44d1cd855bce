# SPDX-License-Identifier: Apache-2.0
"""The membership part of the page: what is named, claimed, and controlled."""

import html.parser
import io
import math

import numpy as np

from diffmem.report import (
  checks,
  figures_membership,
  membership,
  page,
  results,
  verdict,
)

HOSTILE = "<script>alert(1)</script> $\\frac{1}{0}$"


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


def test_failed_controls_and_attacks_below_guessing_are_in_the_first_lines(
  attacks, attack
):
  said = " ".join(verdict.membership(attacks, aside()))
  assert "2 of 6 controls of membership failed" in said
  assert "By pixels alone they can be told apart." in said
  said = verdict.membership({"pian": attack(0.4, 0.01)}, {})
  assert "worse than guessing" in said[0]


def test_page_shows_everything(attacks):
  whole = shown(attacks, aside())
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


def test_attacks_are_sorted_within_their_part(attacks):
  shadow, alone = membership.groups(attacks)
  assert [r["name"] for r in shadow["rows"]] == ["rmia", "lira", "gradients"]
  assert [r["name"] for r in alone["rows"]] == [
    "pia",
    "sima",
    "loss",
    "secmi",
    "pian",
  ]
  assert [r["name"] for r in shadow["rows"] if r["leading"]] == ["lira"]


def test_many_attacks_stay_legible(attacks, attack):
  attacks = attacks | {f"more_{i}": attack(0.6, 0.05) for i in range(20)}
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


def test_untrusted_names_stay_text(attack):
  beside = aside()
  beside["_controls"]["blind"]["says"] = HOSTILE
  beside["_images"]["attack"] = HOSTILE
  beside["_audits"]["canaries"][HOSTILE] = beside["_audits"]["canaries"].pop(
    "noise"
  )
  beside["_joined"] = {"skipped": HOSTILE}
  hostile = {HOSTILE: attack(0.7, 0.1, source=HOSTILE)}
  made = shown(hostile, beside)
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

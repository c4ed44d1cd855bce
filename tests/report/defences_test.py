# SPDX-License-Identifier: Apache-2.0
"""Defences on the page: the promise beside its attack, and what was removed."""

import io

import numpy as np
import pytest

from diffmem import workdir as workdirs
from diffmem.report import defences, page, results, run
from tests.report import conftest

PRIVACY = {
  "noise_multiplier": 2.02,
  "clip": 0.5,
  "delta": 1e-4,
  "rows": 965,
  "rate": 0.066,
  "steps": 4000,
  "unit": "one row of training, added or removed",
  "epsilon": 8.0,
  "by_copies": {"1": 8.0, "50": 21_345.6},
}


def _render(root):
  found = results.read(root)
  return found, page.render(found, title="A title", gallery=8)


@pytest.fixture
def private(workdir):
  workdir.train().membership()
  made = conftest.meta(conftest.CONFIG, 97.1, parameters=9, privacy=PRIVACY)
  workdir.write("train/meta.json", made)
  return workdir


def test_without_defences_nothing_is_said(whole):
  found, text = _render(whole.root)
  assert defences.summary(found) == {"privacy": None, "dedup": None}
  assert 'id="defences"' not in text


def test_every_number_of_copies_has_its_epsilon(private):
  found, text = _render(private.root)
  assert defences.privacy(found) == {**PRIVACY, "empirical": None}
  assert "(8.00, 0.0001)-differentially private" in text
  assert "50 times" in text
  assert "21,346" in text


def test_the_attack_stands_beside_the_promise(private):
  file = private.root / "membership" / "results.json"
  known = workdirs.read_json(file)
  one = {"epsilon": 0.7, "images": 900, "guesses": 90, "correct": 70}
  one |= {"delta": 1e-4, "significance": 0.05, "in_alone": None, "rates": 1.0}
  known["_audits"] = {"one_run": {"images": 900, "loss": one}}
  private.write("membership/results.json", known)
  found, text = _render(private.root)
  record = defences.privacy(found)
  assert record is not None
  assert record["empirical"] == {"loss": 0.7}
  assert "the loss attack refutes every ε below 0.70 by one run" in text


def test_clipping_alone_promises_nothing(private):
  bare = PRIVACY | {"epsilon": None, "by_copies": {"1": None}}
  made = conftest.meta(conftest.CONFIG, 97.1, parameters=9, privacy=bare)
  private.write("train/meta.json", made)
  _, text = _render(private.root)
  assert "that is no differential privacy" in text


def test_what_was_removed_is_shown_and_sought(workdir):
  workdir.all()
  matched = [
    int(r["training_id"])
    for r in results.read(workdir.root).pairs["matches"].rows
  ]
  about = {
    "rows": [965, 599],
    "ids": [600, 599],
    "stood": {"2": [3], "50": [matched[0], matched[1], 5]},
  }
  split = {"seed": 0, "members": 599, "sha256": "cd" * 32, "dedup": about}
  dataset = {"source": "digits", "rows": 1797, "sha256": "ab" * 32}
  workdir.write("data/meta.json", {"dataset": dataset, "split": split})
  header = "kept_id,removed_id,rows,distance,label,name\n"
  workdir.write(
    "dedup/removed.csv",
    header + "5,5,49,0.0,3,\n7,9,1,0.03,1,<b>\n8,8,1,0,2,\n",
  )
  packed = io.BytesIO()
  shown = conftest.pictures(workdir.rng, 2)
  np.savez(packed, kept=shown, removed=shown)
  workdir.write("dedup/gallery.npz", packed.getvalue())
  found, text = _render(workdir.root)
  record = defences.dedup(found)
  assert record is not None
  assert record["came_back"] == {"2": [0, 1], "50": [2, 3]}
  assert "366 of 965 rows of training were near-duplicates" in text
  assert "removed 9" in text
  assert "Showing 2 of 3; dedup/removed.csv holds them all" in text
  run.run(workdir.root, report={"title": "A", "gallery": 4, "labels": ()})
  said = workdirs.read_json(workdir.root / "report" / "results.json")
  assert said["dedup"]["came_back"]["50"] == [2, 3]
  assert said["privacy"] is None

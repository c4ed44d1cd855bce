# SPDX-License-Identifier: Apache-2.0
"""Comparisons of workdirs whose files are written here."""

import csv
import io
import json

import numpy as np
import pytest
import scipy.stats

from diffmem import stats
from diffmem.report import compare, compare_pairs, compare_read
from tests.report.conftest import Workdir
from tests.report.quality_test import FOUND as QUALITY

SECTION = {
  "workdirs": (),
  "names": (),
  "title": "Side <by> side",
  "resamples": 50,
}
MEMBERS, HELD_OUT = np.arange(0, 1198, 2), np.arange(1, 1198, 2)


def make(root, i=0, matched=None, generated=4096, copies=None, shift=0.0):
  """A workdir that reproduces `matched`; its attack knows by `shift`."""
  found = Workdir(root)
  matched = MEMBERS[10 * i : 10 * i + 20] if matched is None else matched
  found.train().sample()
  unique = len(matched)
  found.extraction()
  file = root / "extraction" / "results.json"
  results = json.loads(file.read_text())
  results |= {"generated": generated, "unique": unique}
  low_high = scipy.stats.binomtest(unique, 599).proportion_ci()
  results["unique_interval"] = [float(low_high.low), float(low_high.high)]
  results["searched"] = 599
  found.write("extraction/results.json", results)
  lines = [f"{m},0,0.01,0.5,1,{1 + j % 4},,," for j, m in enumerate(matched)]
  head = (
    "training_id,generation_id,distance,ratio,copies,hits,label,name,caption"
  )
  found.write("extraction/matches.csv", "\n".join([head, *lines]) + "\n")
  packed = io.BytesIO()
  copies = np.ones(599, np.int64) if copies is None else copies
  np.savez(packed, members=MEMBERS, held_out=HELD_OUT, copies=copies)
  found.write("data/split.npz", packed.getvalue())
  found.membership()
  rng = np.random.default_rng(0)
  scores = rng.normal(size=1198)
  scores[MEMBERS] += shift
  scores += 0.2 * np.random.default_rng(i + 1).normal(size=1198)
  lines = [
    f"{j},{1 - j % 2},{1 - j % 2},report,{scores[j]}" for j in range(1198)
  ]
  table = "\n".join(["id,member,copies,used,loss", *lines])
  found.write("membership/scores.csv", table + "\n")
  quality = json.loads(json.dumps(QUALITY))
  value = 0.2 + 0.1 * i
  quality["to_held_out"]["frechet"] = [value, value - 0.03, value + 0.03]
  found.write("quality/results.json", quality)
  return root


def compared(tmp_path, *roots, **more):
  section = SECTION | {"workdirs": tuple(map(str, roots))} | more
  compare.run(tmp_path / "out", seed=0, compare=section)
  folder = tmp_path / "out" / "compare"
  page = (folder / "index.html").read_text()
  return json.loads((folder / "results.json").read_text()), page, folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  folder = tmp_path_factory.mktemp("two")
  roots = [make(folder / "a"), make(folder / "b", 1, shift=1.0)]
  return compared(folder, *roots)


def test_one_page_and_one_table(two):
  found, page, folder = two
  assert [row["name"] for row in found["rows"]] == ["a", "b"]
  assert "Side &lt;by&gt; side" in page
  assert "not measured" not in page
  assert found["differences"] == []
  with open(folder / "table.csv", newline="") as f:
    rows = list(csv.DictReader(f))
  assert [row["unique"] for row in rows] == ["20", "20"]
  assert float(rows[1]["frechet"]) == pytest.approx(0.3)
  assert rows[0]["parameters"] == "61234"
  assert all(row["auc"] and row["unique_low"] for row in rows)
  assert "http://" not in page.replace("http://www.w3.org", "")


def test_overlap_against_chance(two):
  """Ten of twenty in common, of 599."""
  (pair,) = two[0]["overlaps"]
  assert (pair["both"], pair["first"], pair["second"]) == (10, 20, 20)
  assert pair["expected"] == pytest.approx(400 / 599)
  tail = scipy.stats.hypergeom.sf(9, 599, 20, 20)
  assert pair["log10_p"] == pytest.approx(np.log10(tail))


def test_changes_have_tests(two):
  (change,) = two[0]["changes"]
  matches, auc, frechet = (change[k] for k in ("matches", "auc", "frechet"))
  assert (matches["lost"], matches["gained"]) == (10, 10)
  assert matches["p_value"] == 1
  assert auc["members"] == 599
  assert auc["change"][1] > 0.1
  assert frechet["change"][0] == pytest.approx(0.1)
  half = 1.96 * np.hypot(0.025, 0.025)
  assert frechet["change"][2] == pytest.approx(0.1 + half)


def test_quality_is_of_what_was_trained_on_where_all_share_it(tmp_path):
  """With copies, held-out images are no measure of what a model learnt."""
  roots = [make(tmp_path / name, i) for i, name in enumerate("ab")]
  for i, root in enumerate(roots):
    file = root / "quality" / "results.json"
    quality = json.loads(file.read_text())
    learnt = {"frechet": [0.02 * (i + 1), 0, 1]}
    learnt |= {"se": {"frechet": 0.001}, "bias": {"frechet": 0.003}}
    file.write_text(json.dumps(quality | {"to_training": learnt}))
  found, page, folder = compared(tmp_path, *roots)
  assert found["changes"][0]["frechet"]["pair"] == "to_training"
  assert found["changes"][0]["frechet"]["change"][0] == pytest.approx(0.02)
  assert "the training set with its copies" in page
  table = (folder / "table.csv").read_text().splitlines()
  assert [row["frechet_to"] for row in csv.DictReader(table)] == [
    "training"
  ] * 2
  # Runs of other canaries or copies: beside held-out images, as before.
  file = roots[1] / "data" / "meta.json"
  meta = json.loads(file.read_text())
  canary = {"split": meta.get("split", {}) | {"canaries": {"seed": 3}}}
  file.write_text(json.dumps(meta | canary))
  found, _, _ = compared(tmp_path / "canaries", *roots)
  assert found["changes"][0]["frechet"]["pair"] == "to_held_out"
  file.write_text(json.dumps(meta))
  split = dict(np.load(roots[1] / "data" / "split.npz"))
  split["copies"][0] = 9
  np.savez(roots[1] / "data" / "split.npz", **split)
  found, page, _ = compared(tmp_path / "other", *roots)
  assert found["changes"][0]["frechet"]["pair"] == "to_held_out"
  assert "the training set with its copies" not in page


def test_planted_copies_do_not_count_as_agreement(tmp_path):
  """Both find all that was planted and nothing else: what chance says too."""
  copies = np.ones(599, np.int64)
  copies[:12] = 20
  roots = [
    make(tmp_path / name, matched=MEMBERS[:12], copies=copies)
    for name in ("a", "b")
  ]
  (pair,) = compared(tmp_path, *roots)[0]["overlaps"]
  assert pair["both"] == 12
  assert pair["expected"] == pytest.approx(12)
  assert pair["log10_p"] == pytest.approx(0, abs=1e-9)


def test_budgets_are_made_equal_and_said(tmp_path):
  few = make(tmp_path / "few", generated=1024)
  many = make(tmp_path / "many")
  found, page, _ = compared(tmp_path, few, many)
  rows = {row["name"]: row["extraction"] for row in found["rows"]}
  assert found["budget"] == 1024
  hits = [1 + j % 4 for j in range(20)]
  expected = stats.rarefaction(np.array(hits), 4096, [1024])[0]
  assert rows["many"]["unique_at_budget"] == pytest.approx(expected)
  assert rows["few"]["unique_at_budget"] == pytest.approx(20)
  assert "generations searched" in [d["what"] for d in found["differences"]]
  assert "not tested" in page


def test_other_data_are_said_loudly(tmp_path):
  roots = [make(tmp_path / name) for name in ("a", "b")]
  meta = json.loads((roots[1] / "data" / "meta.json").read_text())
  meta["dataset"]["sha256"] = "00" * 32
  (roots[1] / "data" / "meta.json").write_text(json.dumps(meta))
  found, page, _ = compared(tmp_path, *roots)
  assert "were not trained on the same images" in page
  assert found["overlaps"][0]["common"] is None
  change = found["changes"][0]
  assert change["matches"] is change["auc"] is change["frechet"] is None


@pytest.mark.parametrize("part", ["extraction", "membership", "quality"])
def test_what_is_missing_is_not_measured(tmp_path, part):
  roots = [make(tmp_path / name) for name in ("a", "b")]
  for file in (roots[1] / part).iterdir():
    file.unlink()
  found, page, _ = compared(tmp_path, *roots)
  assert found["rows"][1][part] is None
  assert found["rows"][0][part] is not None
  assert "not measured" in page


def test_other_features_do_not_compare(tmp_path):
  roots = [make(tmp_path / name) for name in ("a", "b")]
  file = roots[1] / "quality" / "results.json"
  quality = json.loads(file.read_text())
  quality["features"]["info"] = {"weights": "other"}
  file.write_text(json.dumps(quality))
  found, page, _ = compared(tmp_path, *roots)
  assert "features of quality" in page
  assert found["changes"][0]["frechet"] is None


def test_eight_runs(tmp_path):
  roots = [make(tmp_path / f"run_{i}", i) for i in range(8)]
  found, page, _ = compared(tmp_path, *roots)
  assert len(found["overlaps"]) == 28
  assert page.count("run_7") > 5


@pytest.mark.parametrize(
  ("more", "message"),
  [
    ({"workdirs": ("a",)}, "names 1, expected two or more"),
    ({"workdirs": ("a", "b", "a")}, "names a twice"),
    ({"workdirs": ("a", "b"), "names": ("x",)}, "expected 2 different names"),
    ({"workdirs": ("a", "b"), "resamples": 0}, "compare.resamples = 0"),
  ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, more, message):
  with pytest.raises(ValueError, match=message):
    compare.run(tmp_path, seed=0, compare=SECTION | more)


def test_a_folder_without_results_is_named(tmp_path):
  one = make(tmp_path / "one")
  with pytest.raises(FileNotFoundError, match="nowhere holds no results"):
    compared(tmp_path, one, tmp_path / "nowhere")


def test_names_are_the_shortest_that_differ():
  names = compare._names(("runs/a/x", "runs/b/x"), ())
  assert names == ["a/x", "b/x"]


def test_the_auc_change_of_equal_scores_is_nothing():
  x = np.random.default_rng(0).normal(size=(40, 1)).repeat(2, axis=1)
  found = compare_pairs.auc_change(x, x - 1, resamples=20, seed=0)
  assert found == [0, 0, 0]


def test_scores_of_images_set_aside_are_left_out(tmp_path):
  root = make(tmp_path / "a")
  table = root / "membership" / "scores.csv"
  table.write_text(
    "id,member,copies,used,loss\n0,1,1,choose,1\n2,1,20,report,1\n"
    "4,1,1,report,3\n1,0,0,report,2\n"
  )
  row = compare_read.read(root, "a")
  assert row.scores == {"loss": {4: (True, 3.0), 1: (False, 2.0)}}

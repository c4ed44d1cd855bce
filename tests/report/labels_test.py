# SPDX-License-Identifier: Apache-2.0
"""Marks of people: what is refused, and the numbers against a count."""

import itertools
import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from diffmem import stats
from diffmem.report import labels

KNOWN = [f"matches:{i}" for i in range(40)] + [
  f"near_misses:{i}" for i in range(10)
]


def save(path, rater="Ada", marks=None, **change):
  content = {
    "diffmem_labels": 1,
    "sheet": "abc",
    "rater": rater,
    "labels": marks if marks is not None else {"matches:0": "copy"},
  }
  path.write_text(json.dumps(content | change))
  return path


def test_read(tmp_path):
  found = labels.read(save(tmp_path / "a.json"), "abc", KNOWN)
  assert found == {"rater": "Ada", "labels": {"matches:0": "copy"}}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"sheet": "other"}, "marked on another sheet"),
    ({"diffmem_labels": 2}, "no file of marks"),
    ({"labels": ["copy"]}, "no file of marks"),
    ({"rater": None}, "no file of marks"),
    ({"labels": {"matches:99": "copy"}}, "'matches:99' is marked 'copy'"),
    ({"labels": {"matches:1": "yes"}}, "'matches:1' is marked 'yes'"),
  ],
)
def test_what_is_refused(change, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    labels.read(save(tmp_path / "a.json", **change), "abc", KNOWN)


@pytest.mark.parametrize(
  "content", ["", "[1]", "{", "[" * 100_000, '{"diffmem_labels": 1}']
)
def test_damaged_files(content, tmp_path):
  (tmp_path / "a.json").write_text(content)
  with pytest.raises(ValueError, match="no file of marks"):
    labels.read(tmp_path / "a.json", "abc", KNOWN)


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="there is no file"):
    labels.read(tmp_path / "a.json", "abc", KNOWN)


def test_two_files_of_one_person():
  marked = [{"rater": "Ada", "labels": {}}] * 2
  with pytest.raises(ValueError, match="two files are by the rater 'Ada'"):
    labels.compare(marked)


def test_numbers_against_a_count():
  rng = np.random.default_rng(0)
  truth = dict(zip(KNOWN, rng.choice(labels.MARKS, len(KNOWN)), strict=True))
  marked = []
  for rater in ("Ada", "Ben", "Eve"):
    mine = {
      name: str(rng.choice(labels.MARKS) if rng.random() < 0.3 else mark)
      for name, mark in truth.items()
      if rng.random() < 0.9
    }
    marked.append({"rater": rater, "labels": mine})
  found = labels.compare(marked)
  for pair, (a, b) in zip(
    found["agreement"], itertools.combinations(marked, 2), strict=True
  ):
    both = [n for n in KNOWN if n in a["labels"] and n in b["labels"]]
    one, two = ([x["labels"][n] for n in both] for x in (a, b))
    assert pair["cards"] == len(both)
    assert pair["alike"] == sum(np.array(one) == np.array(two))
    assert pair["kappa"] == pytest.approx(cohen_kappa_score(one, two))
  copies = sure = 0
  for name in KNOWN[:40]:
    given = [x["labels"][name] for x in marked if name in x["labels"]]
    for mark in ("copy", "no"):
      if 2 * given.count(mark) > len(given):
        copies, sure = copies + (mark == "copy"), sure + 1
  most = found["by_hand"]["matches"]["most"]
  assert most["copy"] == copies
  assert most["share"] == pytest.approx(
    [copies / sure, *stats.clopper_pearson(copies, sure)]
  )


def test_one_rater_and_one_mark():
  marked = [
    {"rater": name, "labels": {"matches:0": "copy"}} for name in ("Ada", "Ben")
  ]
  found = labels.compare(marked)
  assert found["agreement"][0]["kappa"] is None  # no chance to agree by
  assert labels.compare(marked[:1])["agreement"] == []

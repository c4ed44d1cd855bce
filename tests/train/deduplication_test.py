# SPDX-License-Identifier: Apache-2.0
"""The search before training: each rule, what is written, what is trained."""

import copy
import csv

import numpy as np
import pytest

from diffmem import data, distances, workdir
from diffmem.data import dedup
from diffmem.train import deduplication, run
from tests.train.run_test import CONFIG

RNG = np.random.default_rng(5)


def _source(tmp_path):
  """30 random images; 10 more are near-copies of the first ten."""
  images = RNG.integers(0, 256, (30, 8, 8, 1), np.uint8)
  near = np.clip(images[:10].astype(int) + 3, 0, 255).astype(np.uint8)
  images = np.concatenate([images, near])
  np.savez(tmp_path / "images.npz", images=images)
  return f"npz:{tmp_path / 'images.npz'}"


def _data(tmp_path, section):
  found = copy.deepcopy(CONFIG["data"])
  found["split"] |= {"members": 24, "held_out": 8, "calibration": 8}
  found["split"]["planted"] = ((5, 2),)
  return found | {"source": _source(tmp_path), "dedup": section}


SECTIONS = [
  {"by": "pixels", "threshold": 0.02, "gallery": 3},
  {
    "by": "ratio",
    "threshold": 0.5,
    "alpha": 0.5,
    "neighbours": 5,
    "gallery": 3,
  },
  {
    "by": "features",
    "threshold": 0.02 * 8,  # l2 of 64 values
    "features": {"name": "pixels"},
    "gallery": 3,
  },
]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_rule_finds_the_near_copies(tmp_path, section):
  settings = _data(tmp_path, section)
  deduplication.run(tmp_path, seed=0, data=settings)
  folder = tmp_path / "dedup"
  found = dedup.read(folder / dedup.FILE)
  dataset, split = data.prepare(tmp_path / "data", seed=0, **settings)
  before = np.union1d(split.members, found.j)
  expected = [(i, i + 30) for i in range(10) if {i, i + 30} <= {*before}]
  assert list(zip(found.i, found.j, strict=True)) == expected
  with open(folder / "removed.csv") as file:
    rows = list(csv.DictReader(file))
  gone = {int(r["removed_id"]) for r in rows if r["removed_id"] != r["kept_id"]}
  assert gone == {j for _, j in expected}
  copied = [r for r in rows if r["removed_id"] == r["kept_id"]]
  assert sum(int(r["rows"]) for r in rows) == len(gone) + 8
  assert all(float(r["distance"]) == 0 for r in copied)
  with np.load(folder / "gallery.npz") as shown:
    assert len(shown["kept"]) == 3
    np.testing.assert_array_equal(
      shown["removed"], dataset.take([int(r["removed_id"]) for r in rows[:3]])
    )


def test_ratios_are_those_of_a_naive_search(tmp_path):
  """By all distances: each image against the mean of its nearest others."""
  images = RNG.integers(0, 256, (20, 4, 4, 1), np.uint8)
  images[7] = images[3]  # an exact copy takes the place of the image itself
  section = SECTIONS[1] | {"threshold": 1.7, "neighbours": 4}
  i, j, d = deduplication._once(*deduplication._by_ratio(images, section))
  all_pairs = distances.nearest(images, images, 20)
  table = np.zeros((20, 20))
  np.put_along_axis(table, all_pairs.ids, all_pairs.distances, axis=1)
  expected = {}
  for x in range(20):
    others = sorted((table[x, y], y) for y in range(20) if y != x)[:4]
    mean = np.mean([a for a, _ in others])
    for a, y in others:
      if a <= 1.7 * 0.5 * mean:
        expected[min(x, y), max(x, y)] = a
  assert dict(zip(zip(i, j, strict=True), d, strict=True)) == expected
  assert 0 < len(expected) < 80
  assert (3, 7) in expected


def test_it_trains_on_what_stays(tmp_path):
  config = copy.deepcopy(CONFIG)
  config["data"] = _data(tmp_path, SECTIONS[0])
  config["train"] |= {"steps": 2, "warmup": 1}
  run.run(tmp_path / "a", **config, progress=False)
  meta = workdir.require(tmp_path / "a", "train")
  about = workdir.require(tmp_path / "a", "dedup")["dedup"]
  assert meta["images"] == about["rows"][1] < about["ids"][0]
  _, split = data.read(tmp_path / "a" / "data")
  assert split.info["dedup"] == about
  run.run(tmp_path / "a", **config, progress=False)  # is kept


@pytest.mark.parametrize(
  ("section", "message"),
  [
    ({"by": "pixel"}, "data.dedup.by='pixel': expected one of pixels, ratio"),
    ({"by": "pixels", "threshold": 0.1}, "expects by, gallery, threshold"),
    (
      {"by": "pixels", "threshold": -0.1, "gallery": 1},
      "data.dedup.threshold=-0.1: expected 0 or more",
    ),
    (SECTIONS[1] | {"neighbours": 0}, "neighbours=0: expected 1 or more"),
  ],
)
def test_sections_that_cannot_be_are_refused(section, message):
  with pytest.raises(ValueError, match=message):
    deduplication.check(section)


def test_canaries_are_not_deduplicated(tmp_path):
  settings = _data(tmp_path, SECTIONS[0])
  deduplication.run(tmp_path, seed=0, data=settings)
  canaries = {"noise": ((2, 3),), "mislabelled": (), "reference": 4}
  with pytest.raises(ValueError, match=r"data\.dedup with data\.canaries"):
    data.prepare(tmp_path / "data", seed=0, **settings, canaries=canaries)

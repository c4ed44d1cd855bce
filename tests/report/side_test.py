# SPDX-License-Identifier: Apache-2.0
"""Surrogate conditions on the page: of one model, and of pairs of twins."""

import io

import numpy as np
import pytest

from diffmem import workdir
from diffmem.extraction import side_pairs
from diffmem.report import run as publish
from diffmem.report import side
from diffmem.report.results import read

REPORT = dict(title="SIDE", gallery=8, labels=())


def scores(own, other):
  def counts(value):
    ends = [value / 2, value * 2]
    return dict(ams=value, ums=value, ams_interval=ends, ums_interval=ends)

  return {
    of: {
      "rates": {"0.01": {u: counts(v) for u in ("generations", "ids")}},
      "bands": {b: {"cumulative": counts(v)} for b in ("high", "mid", "low")},
    }
    for of, v in (("members", own), ("held_out", other))
  }


def result(guided, unguided=0.03):
  """A model's results, whose guided banks match so often."""
  return {
    "n": 100,
    "scales": [1.0, 4.0],
    "methods": ["scratch", "plain"],
    "clusters": {
      "kept": 9,
      "dropped": 3,
      "images": 400,
      "cohesion": [0.5, 0.7, 0.9],
      "sizes": [20, 30, 40],
      "dropped_cohesion": [0.1, 0.2, 0.3],
    },
    "accuracy": {
      "t": [0, 500, 999],
      "images": 40,
      "scratch": [0.9, 0.5, 0.1],
      "plain": [0.9, 0.2, 0.1],
    },
    "unguided": scores(unguided, 0.001),
    "scores": {
      "scratch": {
        "1.0": scores(guided / 2, 0.002),
        "4.0": scores(guided, 0.002),
      },
      "plain": {"1.0": scores(0.03, 0.001), "4.0": scores(0.02, 0.001)},
    },
  }


def write(root, results):
  """A workdir in which the side stage alone has finished."""
  folder = workdir.path(root) / "side"
  folder.mkdir(parents=True)
  packed = io.BytesIO()
  images = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 8, 8, 1))
  np.savez(
    packed,
    **dict(
      zip(
        ("synthetic", "guided", "training"),
        images.astype(np.uint8),
        strict=True,
      )
    ),
    distances=np.array([[0.01, 0.02, 0.03, 0.04], [0.05, *[np.inf] * 3]]),
    cohesion=np.array([0.91, 0.87]),
    sizes=np.array([40, 30]),
  )
  workdir.write_bytes(folder / "gallery.npz", packed.getvalue())
  meta = dict(status="finished", config={"seed": 0}, inputs={}, seconds=1.0)
  workdir.write_json(folder / "meta.json", meta)
  workdir.write_json(folder / "results.json", results)
  return root


@pytest.fixture
def twins(tmp_path):
  models = [result(0.14), result(0.16), result(0.12), result(0.14)]
  together = side_pairs.together(["0", "1", "2", "3"], models)
  return write(tmp_path, together)


def test_pairs_on_the_page(twins):
  publish.run(twins, report=REPORT, progress=False)
  page = (twins / "report" / "index.html").read_text()
  assert "Guided to clusters of its own images, 14% of a model" in page
  assert "of plain samples 3% do" in page
  assert "14.0 distinct training images come back, of plain samples 3.0" in page
  assert '<td><span class="num strong">14%</span>' in page
  assert "+10.9 points (−1.8 to +23.6)" in page
  assert "accuracy" in page
  assert page.count("A cluster of") == 2
  assert "cohesion 0.91; the nearest guided image is 0.0100 from" in page
  assert "has not run in this folder" not in page
  summary = workdir.read_json(twins / "report" / "results.json")
  assert summary["side"]["models"] == ["0", "1", "2", "3"]


def test_the_verdict_tells_of_the_attack_that_was_asked_for(twins):
  first, *rest = publish.headline(twins).splitlines()
  assert first.startswith("Guided to clusters of its own images, 14%")
  assert rest[0].startswith("For every 100 generations 14.0")
  assert len(rest) == 2


def test_one_model_has_a_row_for_each_scale(tmp_path):
  write(tmp_path, result(0.14))
  found = read(tmp_path).side
  assert found is not None
  tables = side.tables(found)
  assert [t["rate"] for t in tables] == [True] * 2 + [False] * 6
  rows = {row["name"]: row for row in tables[0]["rows"]}
  assert rows["plain sampling"]["own"] == "3%"
  assert rows["SIDE, scale 4.0"]["own"] == "14%"
  assert rows["SIDE, scale 4.0"]["own_interval"] == "7% to 28%"
  assert rows["a classifier that knows no noise, scale 1.0"]["own"] == "3%"
  publish.run(tmp_path, report=REPORT, progress=False)
  page = (tmp_path / "report" / "index.html").read_text()
  assert "One model was attacked" in page

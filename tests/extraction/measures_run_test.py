# SPDX-License-Identifier: Apache-2.0
"""The stage on tiny models: pieces, going on, labels, what is claimed."""

import copy

import numpy as np
import pytest

import diffmem.data
from diffmem import workdir
from diffmem.bin import program
from diffmem.extraction import measures_models, measures_results, measures_run
from diffmem.report import run as report

pytestmark = pytest.mark.slow  # what it compiles takes half a minute


@pytest.fixture(scope="module")
def config(root):
  spec = f"{root}/configs/measures_small.py:debug"
  found = program.load_config(spec).to_dict()
  found["models"].update(width=8)
  found["train"].update(steps=4, warmup=1, log_every=4, batch=8)
  found["measures"].update(repeats=1, points=2, sizes=(8, 12))
  found["measures"]["labels"].update(kinds=("unique",))
  return found


def go(root, config, **more):
  sections = copy.deepcopy({k: v for k, v in config.items() if k != "report"})
  sections["measures"] |= more
  measures_run.run(root, progress=False, **sections)
  return workdir.read_json(root / "measures" / "results.json")


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
  root = tmp_path_factory.mktemp("measures")
  return root, go(root, config)


def test_results_hold_every_measure(finished):
  _, results = finished
  assert set(results["labels"]) == {"none", "unique"}
  none = results["labels"]["none"]
  assert none["members"][0] == none["held_out_bound"][0] == [0, 0, 0]
  assert results["labels"]["unique"]["held_out"] is None
  value, low, high = results["labels"]["unique"]["members"][0]
  assert low <= value <= high
  assert [size["n"] for size in results["sizes"]] == [8, 12]
  for size in results["sizes"]:
    assert size["steps"] == [2, 4]
    assert len(size["curve"][0]) == 2
    assert size["curve"][0][-1] == size["copies"][0]
    assert size["own"][0][0] >= size["other"][0][0] - 0.5


def test_halves_share_nothing(finished):
  folder = finished[0] / "measures" / "models" / "size_8_0" / "shadows"
  first, second = (
    set(diffmem.data.read(folder / i / "data")[1].members) for i in "01"
  )
  assert len(first) == len(second) == 8
  assert not first & second


def test_it_goes_on_where_it_stopped(finished, config, monkeypatch):
  root, results = finished
  meta = workdir.read_json(root / "measures" / "meta.json")
  workdir.write_json(
    root / "measures" / "meta.json", meta | {"status": "started"}
  )
  (root / "measures" / "done" / "size_8_0.npz").unlink()
  monkeypatch.setattr(
    measures_models.fit, "_train", lambda *_: pytest.fail("trained anew")
  )
  assert go(root, config) == results


def test_it_has_a_section_on_the_page(finished):
  root = finished[0]
  report.run(root, report={"title": "T", "gallery": 4, "labels": []})
  text = (root / "report" / "index.html").read_text()
  assert "When models copy" in text
  assert "a label for each image" in text
  assert text.count("<svg") == 3
  assert "has not run" not in text


def test_labels(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (24, 4, 4, 1), dtype=np.uint8)
  dataset = diffmem.data.Dataset(
    images=images, ids=np.arange(24) * 2, labels=np.arange(24) % 3
  )
  split = diffmem.data.split(
    dataset, seed=0, members=10, held_out=10, calibration=0
  )

  def labels(kind):
    source, classes = measures_models.relabelled(
      workdir.path(tmp_path), kind, dataset, split, 0
    )
    loaded = diffmem.data.load(source)
    np.testing.assert_array_equal(loaded.images, images)
    np.testing.assert_array_equal(loaded.ids, dataset.ids)
    return loaded, classes

  own, classes = labels("informative")
  np.testing.assert_array_equal(own.labels, dataset.labels)
  assert classes == 3
  drawn, classes = labels("random")
  assert classes == 3
  assert set(drawn.labels) == {0, 1, 2}
  assert (drawn.labels != dataset.labels).any()
  each, classes = labels("unique")
  assert classes == 10
  found = each.labels[each.rows(split.members)]
  np.testing.assert_array_equal(found, np.arange(10))
  with pytest.raises(ValueError, match="unknown labels 'true'"):
    labels("true")


def size(n, copies, agree, curve):
  """One training set size with two seeds."""
  two = [[agree, agree, agree]] * 2
  own = [[1 - agree, 0, 1]] * 2
  low = [[0.0, 0, 0]] * 2
  return {
    "n": n,
    "copies": [copies] * 2,
    "steps": [100, 200],
    "curve": [curve] * 2,
    "same_noise": two,
    "shuffled": low,
    "own": own,
    "other": low,
  }


def test_claims_hold_where_they_should():
  labels = {
    "none": {"copies": [0.1, 0.2], "members": None, "held_out": None},
    "random": {
      "copies": [0.3, 0.1],
      "members": [[-0.2, -0.3, -0.1], [-0.1, -0.2, 0.0]],
      "held_out": [[0.1, 0.0, 0.2], [0.2, 0.1, 0.3]],
    },
  }
  sizes = [
    size(10, 0.9, 0.1, [0.2, 0.9]),
    size(100, 0.0, 0.8, [0.0, 0.0]),
  ]
  found = measures_results.claims({"labels": labels, "sizes": sizes})
  assert [claim["holds"] for claim in found] == [True, True, None] + [True] * 4
  assert "never" in found[4]["says"]
  found = measures_results.claims({"labels": labels, "sizes": sizes[::-1]})
  assert [claim["holds"] for claim in found[3:]] == [False] * 4


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (dict(repeats=0), "measures.repeats = 0"),
    (dict(ratio=1.5), "measures.ratio = 1.5"),
    (dict(sizes=(1, 8)), "2 images or more"),
  ],
)
def test_errors(config, tmp_path, options, words):
  with pytest.raises(ValueError, match=words):
    go(tmp_path, config, **options)

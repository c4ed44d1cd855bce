# SPDX-License-Identifier: Apache-2.0
"""The stage: files, headline on members seen once, resumed, refused."""

import csv

import numpy as np
import pytest

import diffmem.data
from diffmem import arrays, membership, stats, store, workdir
from diffmem.denoiser import finite_set, trained
from diffmem.diffusion import schedules
from diffmem.membership import run, signals

CONFIG = {
  "attacks": ("loss",),
  "t": (10, 100),
  "headline_t": 100,
  "draws": 2,
  "batch": 40,
  "bootstrap": 50,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A workdir whose model is the optimal denoiser of its members."""
  root = tmp_path_factory.mktemp("run")
  split = {"members": 60, "held_out": 50, "calibration": 10}
  dataset, drawn = diffmem.data.prepare(
    root / "data",
    seed=0,
    source="digits",
    crop="none",
    resize=None,
    filter="lanczos",
    data_dir=None,
    split=split | {"planted": ((20, 3), (5, 4))},
  )
  (root / "train").mkdir()
  meta = {"status": "finished", "weights": "abc"}
  workdir.write_json(root / "train" / "meta.json", meta)
  images = np.asarray(arrays.from_uint8(dataset.take(drawn.members)))
  return root, drawn, finite_set(images, schedules.linear())


@pytest.fixture
def root(prepared, tmp_path, monkeypatch):
  for name in ("data", "train"):
    (tmp_path / name).symlink_to(prepared[0] / name)
  monkeypatch.setattr(trained, "load", lambda root: prepared[2])
  return tmp_path


def go(root, **change):
  run.run(root, seed=3, membership=CONFIG | change, progress=False)
  return workdir.read_json(root / "membership" / "results.json")["loss"]


def scores_of(root):
  with open(root / "membership" / "scores.csv") as file:
    return list(csv.DictReader(file))


def test_files_and_numbers(root, prepared):
  got = go(root)
  split = prepared[1]
  assert got["t"] == 100
  assert got["draws"] == 2
  assert got["members"] == 53
  assert got["non_members"] == 50
  rows = scores_of(root)
  assert list(rows[0]) == ["id", "member", "copies", "loss"]
  ids = np.array([int(row["id"]) for row in rows])
  np.testing.assert_array_equal(
    ids, np.concatenate([split.members, split.held_out])
  )
  member = np.array([int(row["member"]) for row in rows])
  copies = np.array([int(row["copies"]) for row in rows])
  scores = np.array([float(row["loss"]) for row in rows])
  np.testing.assert_array_equal(member, np.repeat([1, 0], [60, 50]))
  np.testing.assert_array_equal(copies[:60], split.copies)
  assert not copies[60:].any()
  once, never = scores[copies == 1], scores[copies == 0]
  np.testing.assert_allclose(got["auc"][0], stats.auc(once, never))
  assert got["auc"][0] > 0.99
  assert got["auc"][1] <= got["auc"][0] <= got["auc"][2]
  assert got["tpr@0.01"] is None  # 50 non-members cannot resolve it
  assert list(got["by_copies"]) == ["20", "5"]
  np.testing.assert_allclose(
    got["by_copies"]["20"][0], stats.auc(scores[copies == 20], never)
  )
  assert [row["t"] for row in got["sweep"]] == [10, 100]
  assert [row["exploratory"] for row in got["sweep"]] == [True, False]
  assert got["sweep"][1]["auc"] == got["auc"]
  with np.load(root / "membership" / "roc.npz") as curves:
    fpr, tpr = curves["loss_fpr"], curves["loss_tpr"]
  np.testing.assert_allclose(np.trapezoid(tpr, fpr), got["auc"][0])
  losses = store.open(root / "membership" / "losses")
  assert losses.shape == (110, 2, 2, 1)
  np.testing.assert_allclose(
    -losses[:][:, 1].mean((1, 2), dtype=np.float64), scores, rtol=1e-6
  )


def test_scores_are_those_of_the_library(root, prepared):
  go(root)
  dataset, split = diffmem.data.read(root / "data")
  alone = membership.score(
    "loss",
    prepared[2],
    dataset.take(split.held_out[:6]),
    t=100,
    draws=2,
    seed=3,
  )
  rows = scores_of(root)[60:66]
  np.testing.assert_allclose(
    [float(row["loss"]) for row in rows], alone, rtol=1e-5
  )


def test_other_statistics_do_not_run_the_model_again(root, monkeypatch):
  first = go(root)
  monkeypatch.setattr(signals, "Queries", lambda *a: pytest.fail("ran again"))
  assert go(root) == first
  second = go(root, bootstrap=60, headline_t=10)
  assert second["t"] == 10
  meta = workdir.require(root, "membership")
  assert meta["config"]["membership"]["bootstrap"] == 60


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"draws": 3}, "computed with draws = 2, this run has 3.*delete"),
    ({"t": (10, 50, 100)}, r"computed with t = \[10, 100\]"),
    ({"headline_t": 30}, r"headline_t = 30 is not in membership.t = \(10, 100"),
    ({"attacks": ("los",)}, "unknown attack 'los'"),
    ({"attacks": ()}, "attacks is empty"),
    ({"bootstrap": 0}, "bootstrap = 0"),
  ],
)
def test_refused_before_the_model_is_loaded(root, monkeypatch, change, message):
  go(root)
  before = workdir.require(root, "membership")
  monkeypatch.setattr(trained, "load", lambda root: pytest.fail("loaded"))
  with pytest.raises(ValueError, match=message):
    go(root, **change)
  assert workdir.require(root, "membership") == before


def test_other_weights_are_refused(root):
  go(root)
  (root / "train").unlink()
  (root / "train").mkdir()
  meta = {"status": "finished", "weights": "other"}
  workdir.write_json(root / "train" / "meta.json", meta)
  with pytest.raises(ValueError, match="computed with weights = 'abc'"):
    go(root)


def test_no_training_yet(tmp_path):
  with pytest.raises(FileNotFoundError, match="run diffmem-train"):
    go(tmp_path)


def test_a_split_of_one_class(tmp_path, root):
  (root / "data").unlink()
  diffmem.data.prepare(
    root / "data",
    seed=0,
    source="digits",
    crop="none",
    resize=None,
    filter="lanczos",
    data_dir=None,
    split={"members": 9, "held_out": 0, "calibration": 0},
  )
  with pytest.raises(ValueError, match="0 held_out images"):
    go(root)

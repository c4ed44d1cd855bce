# SPDX-License-Identifier: Apache-2.0
"""The stage, with optimal denoisers of shadows' halves in place of models."""

import csv

import numpy as np
import pytest
from PIL import Image

import diffmem.data
from diffmem import arrays, workdir
from diffmem.denoiser import finite_set, trained
from diffmem.diffusion import schedules
from diffmem.extraction import inpaint_plan, inpaint_results, inpaint_run
from diffmem.extraction.inpaint_plan import Task
from diffmem.extraction.inpaint_results import Found

DATA = {
  "source": "digits",
  "crop": "none",
  "resize": None,
  "filter": "lanczos",
  "data_dir": None,
}
SPLIT = {
  "name": "random",
  "members": 0,
  "held_out": 64,
  "calibration": 8,
  "planted": (),
  "shadows": 4,
  "shadow": None,
  "path": None,
}
OPTIONS = {
  "mask": "left",
  "targets": 10,
  "candidates": 8,
  "keep": 2,
  "batch": 8,
  "stepper": "ddpm_fixed_small",
  "steps": 8,
  "eta": 1.0,
  "clip": True,
  "jump": 2,
  "resample": 2,
  "t": 100,
  "draws": 2,
  "bootstrap": 50,
  "gallery": 4,
}
SCHEDULE = schedules.linear()


def pretend(root, split):
  """Data, and what training leaves but for the weights."""
  config = {"seed": 0, "data": {**DATA, "split": split}}
  folder = workdir.of(root, config["data"])
  _, drawn = diffmem.data.prepare(folder / "data", seed=0, **config["data"])
  inputs = {"split": drawn.digest}
  with workdir.stage(folder, "train", config=config, inputs=inputs) as stage:
    stage.record("weights", f"abc {split['shadow']}")


def prepare(root):
  """Four shadows that remember their halves."""
  diffmem.data.prepare(root / "data", seed=0, **DATA, split=SPLIT)
  for i in range(4):
    pretend(root, {**SPLIT, "shadow": i})


def oracle(root):
  """The optimal denoiser of a workdir's members."""
  dataset, split = diffmem.data.read(workdir.path(root) / "data")
  images = np.asarray(arrays.from_uint8(dataset.take(split.members)))
  return finite_set(images, SCHEDULE)


def go(root, **options):
  inpaint_run.run(root, seed=1, inpaint=OPTIONS | options, progress=False)
  folder = workdir.path(root) / "inpaint"
  return workdir.read_json(folder / "results.json")


def rows(root):
  with open(root / "inpaint" / "targets.csv", newline="") as f:
    return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  root = tmp_path_factory.mktemp("finished")
  prepare(root)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(trained, "load", oracle)
    results = go(root)
    yield root, results


def test_what_was_seen_is_filled_in(finished):
  _, results = finished
  assert results["paired"]
  assert results["ranked_by"] == "loss ratio"
  seen, not_seen = (results["groups"][g] for g in ("seen", "not_seen"))
  assert seen["targets"] == not_seen["targets"] == 10
  assert seen["top"][0] < 0.1 < not_seen["top"][0]
  assert seen["within"]["0.05"]["count"] >= 8
  assert not_seen["within"]["0.05"]["count"] == 0
  [test] = results["tests"]
  assert test["paired"]
  assert test["p_value"] < 0.01
  assert test["nearer"]["count"] >= 9
  low, high = test["difference"][1:]
  assert low < test["difference"][0] < high < 0


def test_the_table_and_the_pictures(finished):
  root, results = finished
  found = rows(root)
  assert tuple(found[0]) == inpaint_run.COLUMNS
  assert len(found) == 20
  _, split = diffmem.data.read(root / "data")
  for row in found:
    place = np.searchsorted(split.pool, int(row["target_id"]))
    shadow = int(row["model"].removeprefix("shadow_"))
    ranker = int(row["ranker"].removeprefix("shadow_"))
    assert split.shadows[shadow, place] == (row["group"] == "seen")
    assert not split.shadows[ranker, place]
    assert ranker // 2 != shadow // 2
    assert float(row["best"]) <= float(row["first"]) <= 1
  pictures = np.load(root / "inpaint" / "gallery.npz")
  about = results["gallery"]
  assert [a["chosen"] for a in about] == ["nearest"] * 2 + ["drawn"] * 2
  assert {pictures[k].shape for k in pictures} == {(4, 8, 8, 1)}
  np.testing.assert_array_equal(
    pictures["truth"][..., 4:, :], pictures["seen"][..., 4:, :]
  )
  assert (pictures["visible"][..., :4, :] == 128).all()


def test_it_goes_on_where_it_stopped(finished, tmp_path, monkeypatch):
  root, results = finished
  prepare(tmp_path)
  load = trained.load
  calls = []

  def load_or_die(folder):
    calls.append(folder)
    if len(calls) > 3:
      raise KeyboardInterrupt
    return load(folder)

  monkeypatch.setattr(trained, "load", load_or_die)
  with pytest.raises(KeyboardInterrupt):
    go(tmp_path)
  before = {
    file: file.stat().st_mtime_ns
    for file in tmp_path.glob("inpaint/done/*/*/*")
  }
  assert 0 < len(before) < 20
  monkeypatch.setattr(trained, "load", load)
  assert go(tmp_path) == results
  assert {f: f.stat().st_mtime_ns for f in before} == before
  for file in ("targets.csv", "gallery.npz"):
    one, two = (r / "inpaint" / file for r in (root, tmp_path))
    if file.endswith("csv"):
      assert one.read_bytes() == two.read_bytes()
  # Another number of pictures draws nothing anew; more targets, the new ones.
  monkeypatch.setattr(trained, "load", lambda folder: pytest.fail("drew anew"))
  assert len(go(tmp_path, gallery=2)["gallery"]) == 2
  monkeypatch.setattr(trained, "load", load)
  more = go(tmp_path, targets=12)
  assert {f: f.stat().st_mtime_ns for f in before} == before
  assert more["groups"]["seen"]["targets"] == 12


def test_a_damaged_piece_is_named(finished, tmp_path):
  root, _ = finished
  task = Task(3, "seen", "shadow_0", None, 1)
  file = tmp_path / "shadow_0" / "3.npz"
  file.parent.mkdir()
  whole = next(root.glob("inpaint/done/*/*/*.npz")).read_bytes()
  file.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match=r"3\.npz cannot be read .*delete it"):
    inpaint_run._read(tmp_path, task)


def test_without_shadows_members_are_compared_with_held_out(
  tmp_path, monkeypatch
):
  plain = dict(members=20, held_out=20, planted=((5, 3),), shadows=0)
  pretend(tmp_path, SPLIT | plain)
  monkeypatch.setattr(trained, "load", oracle)
  levels = np.zeros((8, 8), np.uint8)
  levels[2:6, 2:6] = 255
  mask = tmp_path / "mask.png"
  Image.fromarray(levels).save(mask)
  found = go(tmp_path, mask=str(mask), targets=6)
  assert not found["paired"]
  assert found["ranked_by"] == "loss"
  assert found["hidden"] == 16
  sizes = {name: g["targets"] for name, g in found["groups"].items()}
  assert sizes == {"seen_once": 6, "planted": 3, "held_out": 6}
  assert [t["of"] for t in found["tests"]] == ["seen_once", "planted"]
  for test in found["tests"]:
    assert test["test"] == "Mann-Whitney"
    assert test["p_value"] < 0.05
    assert test["difference"][2] < 0
  copies = {r["group"]: {int(r["copies"])} for r in rows(tmp_path)}
  assert copies == {"seen_once": {1}, "planted": {5}, "held_out": {0}}


def test_models_of_another_split_are_refused(tmp_path, monkeypatch):
  prepare(tmp_path)
  meta = tmp_path / "shadows" / "2" / "train" / "meta.json"
  found = workdir.read_json(meta)
  found["inputs"]["split"] = "0" * 64
  workdir.write_json(meta, found)
  with pytest.raises(ValueError, match="trained on another split"):
    go(tmp_path)
  meta.unlink()
  with pytest.raises(FileNotFoundError, match="diffmem-train"):
    go(tmp_path)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (dict(keep=9), "inpaint.keep = 9, but there are inpaint.candidates = 8"),
    (dict(keep=0), "inpaint.keep = 0"),
    (dict(bootstrap=0), "inpaint.bootstrap = 0"),
    (dict(gallery=-1), "inpaint.gallery = -1"),
    (dict(targets=0), "targets=0"),
  ],
)
def test_errors(finished, options, words):
  with pytest.raises(ValueError, match=words):
    go(finished[0], **options)


def test_a_mask_of_the_wrong_size_is_refused(finished, tmp_path):
  mask = tmp_path / "m.png"
  Image.fromarray(np.eye(9, dtype=np.uint8) * 255).save(mask)
  with pytest.raises(ValueError, match="is 9 x 9, the images are 8 x 8"):
    go(finished[0], mask=str(mask))


def test_nothing_remembered_is_nothing_found():
  """The test's size: distances alike under both models."""
  rng = np.random.default_rng(0)
  p_values = []
  for _ in range(200):
    found = [
      Found(Task(i, group, "m", None, 0), *rng.uniform(0.1, 0.3, 4), 0.0)
      for i in range(30)
      for group in (inpaint_plan.SEEN, inpaint_plan.NOT_SEEN)
    ]
    [test] = inpaint_results.summary(found, bootstrap=10, seed=0)["tests"]
    p_values.append(test["p_value"])
  assert 0.35 < np.mean(p_values) < 0.65
  assert np.mean(np.array(p_values) < 0.05) < 0.12

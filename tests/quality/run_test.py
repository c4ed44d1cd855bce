# SPDX-License-Identifier: Apache-2.0
"""The stage on banks from outside: order of sets, resumption, refusals."""

import copy
import shutil

import numpy as np
import pytest
from sklearn import datasets

import diffmem
from diffmem import workdir
from diffmem.audit import DEFAULTS
from diffmem.features import pixels
from diffmem.quality import measure, run
from diffmem.sample import imports

DIGITS = np.round(datasets.load_digits().images * 255 / 16)
DIGITS = DIGITS.astype(np.uint8)[..., None]
ORDER = np.random.default_rng(0).permutation(len(DIGITS))
MEMBERS, HELD_OUT, FRESH = (
  DIGITS[ORDER[a:b]] for a, b in ((0, 150), (150, 390), (390, 510))
)
SECTION = copy.deepcopy(DEFAULTS["quality"])
SECTION["features"]["name"] = "pixels"
SECTION["groups"] = 4


def prepared(root, generations, held_out=HELD_OUT):
  imports.from_arrays(root, generations, progress=False)
  data = DEFAULTS["data"] | {"path": MEMBERS, "held_out": held_out}
  diffmem.data.prepare_given(root / "data", seed=0, **data)
  return root


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
  """Quality of fresh digits, and of a bank of noise."""
  noise = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 1), np.uint8)
  found = {}
  for name, images in (("fresh", FRESH), ("noise", noise)):
    root = prepared(tmp_path_factory.mktemp(name), images)
    run.run(root, seed=0, quality=SECTION, progress=False)
    found[name] = root, workdir.read_json(root / "quality" / "results.json")
  return found


def test_real_images_look_like_real_images(measured):
  found = measured["fresh"][1]
  assert found["images"] == 120  # half of 240 held-out ones calibrate
  assert found["available"]["generations"] == 120
  floor = found["floor"]
  for pair in ("to_members", "to_held_out"):
    gap = found[pair]["frechet"][0] - floor["frechet"][0]
    assert abs(gap) < 4 * (
      found[pair]["se"]["frechet"] + floor["se"]["frechet"]
    )
    assert found[pair]["bias"]["frechet"] > 0
    for name in ("precision", "recall", "coverage"):
      value, low, high = found[pair][name]
      assert 0.7 < value <= 1
      assert 0 <= low <= value <= high <= 1


def test_noise_does_not(measured):
  found = measured["noise"][1]
  assert found["to_members"]["frechet"][1] > 3 * found["floor"]["frechet"][2]
  assert found["to_members"]["precision"][0] == 0
  assert found["to_members"]["precision"][2] > 0  # 0 of 120 is not never
  assert found["to_members"]["coverage"][0] < 0.1
  assert found["loss"] is None


def test_the_numbers_are_those_of_the_images(measured):
  root, found = measured["fresh"]
  _, split = diffmem.data.read(root / "data")
  assert len(split.held_out) == 120
  vectors = [
    (images.reshape(len(images), -1) / 255 - 0.5) / 8
    for images in (HELD_OUT[split.held_out - 150], FRESH)
  ]
  again = measure.measure(*vectors, neighbours=SECTION["neighbours"], groups=4)
  for name in ("frechet", "precision", "recall", "density", "coverage"):
    assert again[name][0] == pytest.approx(
      found["to_held_out"][name][0], rel=1e-3, abs=0.01
    )


def test_copies_are_what_a_model_learns(tmp_path):
  """A bank of the training rows is far from images without copies only."""
  dataset, split = diffmem.data.prepare(
    tmp_path / "data",
    seed=0,
    source="digits",
    data_dir=None,
    crop="none",
    resize=None,
    filter="lanczos",
    split={
      "name": "random",
      "members": 200,
      "held_out": 200,
      "calibration": 200,
      "planted": ((30, 6),),
      "shadows": 0,
      "shadow": None,
      "path": None,
    },
  )
  rows = np.random.default_rng(0).permutation(split.training_rows)
  imports.from_arrays(tmp_path, dataset.take(rows), progress=False)
  run.run(tmp_path, seed=0, quality=SECTION, progress=False)
  found = workdir.read_json(tmp_path / "quality" / "results.json")
  learnt, beside = (found[k] for k in ("to_training", "to_held_out"))
  floor = found["training_to_held_out"]["frechet"][0]
  assert learnt["frechet"][0] < 0.3 * beside["frechet"][0]
  assert beside["frechet"][0] == pytest.approx(floor, rel=0.3)
  assert floor > 2 * found["floor"]["frechet"][0]
  # Copies are each other's nearest neighbours.
  assert "precision" not in learnt


def test_without_copies_the_training_set_is_its_images(measured):
  found = measured["fresh"][1]
  assert found["to_training"] is None
  assert found["training_to_held_out"] is None


def test_a_run_goes_on_from_what_is_there(measured, tmp_path):
  root, found = measured["fresh"]
  here = tmp_path / "run"
  shutil.copytree(root, here)
  folder = here / "quality"
  (folder / "results.json").unlink()
  (folder / "done" / "floor.json").unlink()
  meta = workdir.read_json(folder / "meta.json") | {"status": "started"}
  workdir.write_json(folder / "meta.json", meta)
  kept = folder / "done" / "to_members.json"
  before = kept.stat().st_mtime_ns
  run.run(here, seed=0, quality=SECTION, progress=False)
  assert workdir.read_json(folder / "results.json") == found
  assert kept.stat().st_mtime_ns == before


def test_without_held_out_images(tmp_path):
  root = prepared(tmp_path, FRESH, held_out=None)
  run.run(root, seed=0, quality=SECTION, progress=False)
  found = workdir.read_json(root / "quality" / "results.json")
  assert found["to_held_out"] is None
  assert found["floor"] is None
  assert found["to_members"]["frechet"][0] > 0


def test_few_images_have_no_frechet_distance(tmp_path):
  root = prepared(tmp_path, FRESH[:80])
  run.run(root, seed=0, quality=SECTION, progress=False)
  found = workdir.read_json(root / "quality" / "results.json")["to_members"]
  assert found["frechet"] is None
  assert "60 images for vectors of 64 values" in found["frechet_missing"]
  assert found["coverage"][0] > 0.5


def test_embeddings_from_a_file(tmp_path):
  root = prepared(tmp_path, FRESH)
  rng = np.random.default_rng(0)
  file = tmp_path / "vectors.npz"
  data = rng.normal(size=(390, 4)).astype(np.float32)
  np.savez(file, generations=data[:120] + 9, data=data)
  section = copy.deepcopy(SECTION)
  section["features"].update(name="file", path=str(file))
  run.run(root, seed=0, quality=section, progress=False)
  found = workdir.read_json(root / "quality" / "results.json")
  assert found["features"]["name"] == "file"
  assert found["to_members"]["precision"][0] == 0
  assert found["to_members"]["frechet"][0] == pytest.approx(4 * 81, rel=0.1)


def test_the_small_classifier_sees_all_images_of_the_source(
  tmp_path, monkeypatch
):
  """Its weights do not depend on who is a member."""
  asked = []

  def create(name, **options):
    asked.append((name, options))
    return pixels.create()

  monkeypatch.setattr(run.features, "create", create)
  section = copy.deepcopy(SECTION)
  section["features"].update(name="classifier")
  root = prepared(tmp_path, FRESH)
  run.run(root, seed=5, quality=section, progress=False)
  ((name, options),) = asked
  assert name == "classifier"
  np.testing.assert_array_equal(
    options["images"], np.concatenate([MEMBERS, HELD_OUT])
  )
  assert options["seed"] == section["features"]["training"]["seed"] == 0
  assert options["path"] == root / "quality" / "classifier.npz"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"groups": 1}, "quality.groups = 1, expected 2"),
    ({"images": 1}, "quality.images = 1"),
    ({"neighbours": {"precision": 0, "coverage": 5}}, "precision = 0"),
    ({"loss": {"times": 0, "draws": 1}}, "quality.loss.times = 0"),
    (
      {"features": {"name": "inceptoin", "path": None}},
      "'inceptoin', expected",
    ),
  ],
)
def test_impossible_options_are_refused(tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    run.run(tmp_path, seed=0, quality=SECTION | change, progress=False)


def test_a_section_without_a_key_is_refused(tmp_path):
  section = {k: v for k, v in SECTION.items() if k != "groups"}
  with pytest.raises(ValueError, match="quality has no 'groups'"):
    run.run(tmp_path, seed=0, quality=section, progress=False)


def test_too_few_images_are_refused(tmp_path):
  root = prepared(tmp_path, FRESH[:7])
  with pytest.raises(ValueError, match=r"7 images of each set \(generations"):
    run.run(root, seed=0, quality=SECTION, progress=False)


def test_other_features_need_another_folder(measured):
  root, _ = measured["fresh"]
  section = copy.deepcopy(SECTION)
  section["features"]["name"] = "descriptor"
  with pytest.raises(ValueError, match=r"name = 'pixels', this run has"):
    run.run(root, seed=0, quality=section, progress=False)

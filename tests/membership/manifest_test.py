# SPDX-License-Identifier: Apache-2.0
"""The manifest: shadows in pairs, of one split, trained alike, or refused.

It reads records alone, so nothing is trained here.
"""

import copy
import json
import shutil

import numpy as np
import pytest

from diffmem import data, workdir
from diffmem.membership import manifest

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 2, 2, 1), np.uint8)
SPLIT = {
  "name": "random",
  "members": 20,
  "held_out": 21,
  "calibration": 6,
  "planted": ((3, 2),),
  "shadows": 6,
  "shadow": None,
  "path": None,
}


def _config(folder, seed=0, lr=0.1, **split):
  settings = {
    "source": f"npz:{folder / 'a.npz'}",
    "crop": "none",
    "resize": None,
    "filter": "lanczos",
    "data_dir": None,
  }
  section = {**settings, "split": {**SPLIT, **split}}
  return {"seed": seed, "data": section, "train": {"lr": lr, "sizes": (1, 2)}}


def _pretend(root, config, finish=True):
  """What training leaves behind, but for the weights."""
  shadow = config["data"]["split"]["shadow"]
  folder = workdir.of(root, config["data"])
  whole = copy.deepcopy(config["data"])
  whole["split"]["shadow"] = None
  data.prepare(root / "data", seed=config["seed"], **whole)
  dataset, split = data.prepare(
    folder / "data", seed=config["seed"], **config["data"]
  )
  inputs = {"dataset": dataset.info["sha256"], "split": split.digest}
  try:
    with workdir.stage(folder, "train", config=config, inputs=inputs) as stage:
      stage.record("weights", f"weights of {shadow}")
      if not finish:
        raise KeyboardInterrupt
  except KeyboardInterrupt:
    pass


@pytest.fixture(scope="module")
def template(tmp_path_factory):
  folder = tmp_path_factory.mktemp("manifest")
  np.savez(folder / "a.npz", images=PIXELS)
  for i in range(6):
    _pretend(folder / "run", _config(folder, shadow=i))
  return folder


@pytest.fixture
def made(template, tmp_path):
  """(root that a test may change, function to pretend another training)."""
  root = tmp_path / "run"
  shutil.copytree(template / "run", root)
  shutil.copy(template / "a.npz", tmp_path / "a.npz")

  def pretend(finish=True, at=root, **changes):
    _pretend(at, _config(template, **changes), finish)

  return root, pretend


def test_it_ties_models_masks_and_weights(made):
  root, _ = made
  found = manifest.read(root)
  _, whole = data.read(root / "data")
  assert [m.name for m in found.models] == [f"shadow_{i}" for i in range(6)]
  assert [m.shadow for m in found.models] == list(range(6))
  assert found.main is None
  np.testing.assert_array_equal(found.pool, whole.pool)
  np.testing.assert_array_equal(found.masks, whole.shadows)
  assert found.split.digest == whole.digest
  for i, model in enumerate(found.models):
    assert model.weights == f"weights of {i}"
    _, own = data.read(model.folder / "data")
    np.testing.assert_array_equal(found.pool[model.inside], own.members)
  manifest.write(found)
  record = json.loads((root / "shadows" / "manifest.json").read_text())
  assert [m["folder"] for m in record["models"]] == [
    f"shadows/{i}" for i in range(6)
  ]
  assert [m["members"] for m in record["models"]] == [20, 21] * 3
  assert record["split"] == whole.digest
  assert record["config"]["train"] == {"lr": 0.1, "sizes": [1, 2]}
  assert record["config"]["data"]["split"]["shadow"] is None
  assert record["seconds"] == pytest.approx(
    sum(m["seconds"] for m in record["models"])
  )


def test_the_main_model_stands_beside_its_shadows(made):
  root, pretend = made
  before = manifest.read(root).digest
  pretend(shadow=None)
  found = manifest.read(root)
  assert found.main is not None
  assert [m.name for m in found.models][:2] == ["main", "shadow_0"]
  np.testing.assert_array_equal(
    found.pool[found.main.inside], found.split.members
  )
  assert len(found.masks) == 6
  assert found.digest != before


def test_some_pairs_may_do(made):
  root, _ = made
  shutil.rmtree(root / "shadows" / "2")
  found = manifest.read(root, which=(5, 0, 4, 1))
  assert [m.shadow for m in found.shadows] == [0, 1, 4, 5]
  np.testing.assert_array_equal(found.masks[2], found.split.shadows[4])
  assert len(manifest.read(root, which=(0, 1), pairs=1).shadows) == 2


@pytest.mark.parametrize(
  ("which", "message"),
  [
    ((0, 1, 2), "shadow 2 stands without its partner 3: use both"),
    ((0, 1), "models: 2, pairs: 1; this attack needs 2 pairs at least: train"),
    ((), "shadow models: 0, pairs: 0; this"),
    ((6, 7), "shadow 6: the split of .* has shadows 0 to 5"),
  ],
)
def test_too_few_or_unpaired_shadows_are_refused(made, which, message):
  with pytest.raises(ValueError, match=message) as error:
    manifest.read(made[0], which=which)
  assert "\n" not in str(error.value)


def test_missing_shadows_are_named_with_what_trains_them(made):
  root, pretend = made
  shutil.rmtree(root / "shadows" / "5")
  with pytest.raises(FileNotFoundError) as error:
    manifest.read(root)
  assert str(error.value) == (
    "shadow 5 of 6 is not trained to the end: run diffmem-train --config=..."
    f":shadow=5 --workdir={root}"
  )
  shutil.rmtree(root / "shadows" / "2" / "train")
  pretend(shadow=2, finish=False)
  with pytest.raises(FileNotFoundError, match=r"shadows 2, 5 of 6 are not tr"):
    manifest.read(root)


@pytest.mark.parametrize(("shadow", "name"), [(3, "shadow_3"), (None, "main")])
def test_another_config_is_refused(made, shadow, name):
  root, pretend = made
  shutil.rmtree(root / "shadows" / "3")
  pretend(shadow=3, lr=0.2 if shadow == 3 else 0.1)
  if shadow is None:
    pretend(shadow=None, lr=0.2)
  with pytest.raises(ValueError) as error:
    manifest.read(root)
  expected = f"{name} was trained with train.lr = 0.2, shadow_0 with 0.1: the"
  assert str(error.value).startswith(expected)
  assert f"--workdir={root}" in str(error.value)


@pytest.mark.parametrize("change", [{"seed": 1}, {"calibration": 5}])
def test_a_mask_of_another_split_is_refused(made, tmp_path, change):
  root, pretend = made
  pretend(at=tmp_path / "other", shadow=1, **change)
  shutil.rmtree(root / "shadows" / "1")
  shutil.copytree(tmp_path / "other" / "shadows" / "1", root / "shadows" / "1")
  with pytest.raises(ValueError, match="shadow_1 was trained on another split"):
    manifest.read(root)
  file = root / "shadows" / "0" / "train" / "meta.json"
  meta = json.loads(file.read_text())
  meta["inputs"]["dataset"] = "0" * 64
  file.write_text(json.dumps(meta))
  with pytest.raises(ValueError, match="shadow_0 was trained on another datas"):
    manifest.read(root)


def test_shadows_in_each_others_folder_are_refused(made):
  root, _ = made
  folder = root / "shadows"
  (folder / "2").rename(folder / "x")
  (folder / "3").rename(folder / "2")
  (folder / "x").rename(folder / "3")
  with pytest.raises(ValueError, match="shadow_2 was trained on another split"):
    manifest.read(root)


def test_a_workdir_without_shadows_is_refused(made, tmp_path):
  _, pretend = made
  pretend(at=tmp_path / "none", shadows=0)
  with pytest.raises(ValueError, match="has no shadow models: train with data"):
    manifest.read(tmp_path / "none")
  with pytest.raises(FileNotFoundError, match="run diffmem-train first"):
    manifest.read(tmp_path / "nothing")

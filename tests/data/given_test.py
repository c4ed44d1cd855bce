# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
from PIL import Image

from diffmem import data
from diffmem.data import given

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
TRAINING = PIXELS[[0, 1, 2, 1, 3, 1, 4]]  # 1 stands there three times
OTHERS = PIXELS[[10, 11, 2, 12, 13, 10, 14]]  # 2 is a member, 10 comes twice
REST = dict(crop="none", resize=None, filter="lanczos", data_dir=None)


def prepare(folder, path, held_out=None, seed=0, **options):
  settings = REST | {"calibration": 0.5} | options
  return data.prepare_given(
    folder, seed=seed, path=path, held_out=held_out, **settings
  )


@pytest.fixture
def files(tmp_path):
  np.savez(tmp_path / "training.npz", images=TRAINING, labels=np.arange(7))
  (tmp_path / "others").mkdir()
  for i, image in enumerate(OTHERS):
    Image.fromarray(image).save(tmp_path / "others" / f"{i}.png")
  return tmp_path / "training.npz", tmp_path / "others"


def test_members_are_the_distinct_training_images(files, tmp_path):
  dataset, split = prepare(tmp_path / "data", *files)
  assert split.members.tolist() == [0, 1, 2, 4, 6]
  assert split.copies.tolist() == [1, 3, 1, 1, 1]
  np.testing.assert_array_equal(dataset.take([3]), TRAINING[[3]])
  assert split.info["duplicates_in_training"] == 2
  assert split.info["held_out_left_out"] == 2
  kept = np.sort(np.concatenate([split.held_out, split.calibration]))
  np.testing.assert_array_equal(
    dataset.take(kept), PIXELS[[10, 11, 12, 13, 14]]
  )
  assert len(split.calibration) == 2
  assert dataset.names[7:9] == ("0.png", "1.png")
  assert dataset.names[0] == ""
  assert dataset.labels is None  # one source has none


def test_read_gives_the_same(files, tmp_path):
  folder = tmp_path / "data"
  dataset, split = prepare(folder, *files)
  for again, parts in (data.read(folder), prepare(folder, *files)):
    np.testing.assert_array_equal(again.images, dataset.images)
    assert parts.digest == split.digest
    assert again.info == dataset.info
  other = prepare(tmp_path / "other", *files, seed=1)[1]
  assert other.digest != split.digest


def test_without_held_out(files, tmp_path):
  _, split = prepare(tmp_path / "data", files[0])
  assert len(split.members) == 5
  assert len(split.held_out) == len(split.calibration) == 0
  assert data.read(tmp_path / "data")[1].digest == split.digest


def test_arrays_are_kept(tmp_path):
  folder = tmp_path / "data"
  dataset, _ = prepare(folder, TRAINING, OTHERS)
  again, _ = data.read(folder)
  np.testing.assert_array_equal(again.images, dataset.images)
  prepare(folder, TRAINING, OTHERS)
  with pytest.raises(ValueError, match=r"path\.npz holds other images"):
    prepare(folder, TRAINING[:3], OTHERS)


def test_changed_data_are_refused(files, tmp_path):
  folder = tmp_path / "data"
  prepare(folder, *files)
  with pytest.raises(ValueError, match=r"held_out was .*, is None"):
    prepare(folder, files[0])
  with pytest.raises(ValueError, match="another split"):
    prepare(folder, *files, calibration=0.75)
  (files[1] / "3.png").unlink()
  with pytest.raises(ValueError, match="other data"):
    data.read(folder)
  assert json.loads((folder / "meta.json").read_text())["split"]["held_out"]


@pytest.mark.parametrize(
  ("path", "message"),
  [
    (None, "data.path is missing"),
    ("nowhere", "nowhere: no such folder or file"),
    ("notes.txt", "is no folder and no .npz file"),
  ],
)
def test_wrong_paths(path, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "notes.txt").write_text("")
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    prepare(tmp_path / "data", path)


def test_what_does_not_fit_together(tmp_path):
  with pytest.raises(ValueError, match="training images are 4x4, held-out"):
    prepare(tmp_path / "a", TRAINING, np.zeros((3, 2, 2, 3), np.uint8))
  with pytest.raises(ValueError, match="0 of its 7 images are distinct"):
    prepare(tmp_path / "b", TRAINING, TRAINING)
  with pytest.raises(ValueError, match=r"calibration = 1\.0"):
    prepare(tmp_path / "c", TRAINING, OTHERS, calibration=1.0)


def test_grey_beside_colour_becomes_rgb(tmp_path):
  grey = RNG.integers(0, 256, (5, 4, 4, 1), dtype=np.uint8)
  dataset, _ = prepare(tmp_path / "data", TRAINING, grey)
  np.testing.assert_array_equal(
    dataset.images[7:], np.broadcast_to(grey, (5, 4, 4, 3))
  )


def test_sources(tmp_path):
  assert given.source("tfds:cifar10:train") == "tfds:cifar10:train"
  assert given.source(tmp_path) == f"folder:{tmp_path}"

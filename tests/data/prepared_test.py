# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from diffmem import data

RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (30, 2, 2, 1), dtype=np.uint8)
SPLIT = {
  "name": "random",
  "members": 10,
  "held_out": 8,
  "calibration": 6,
  "planted": ((4, 2), (2, 3)),
  "shadows": 2,
  "path": None,
}


@pytest.fixture
def settings(tmp_path):
  np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.arange(30) % 3)
  return {
    "seed": 0,
    "source": f"npz:{tmp_path / 'a.npz'}",
    "crop": "none",
    "resize": None,
    "filter": "lanczos",
    "data_dir": None,
    "split": SPLIT,
  }


@pytest.fixture
def folder(tmp_path, settings):
  data.prepare(tmp_path / "run" / "data", **settings)
  return tmp_path / "run" / "data"


def test_prepared_again_or_read_is_the_same(folder, settings):
  before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
  assert {file.name for file in before} == {"split.npz", "meta.json"}
  again = data.prepare(folder, **settings)
  for dataset, split in (again, data.read(folder)):
    np.testing.assert_array_equal(dataset.images, PIXELS)
    fresh = data.split(dataset, seed=0, **SPLIT)
    assert split.digest == fresh.digest
    np.testing.assert_array_equal(split.copies, fresh.copies)
  after = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
  assert before == after
  meta = json.loads((folder / "meta.json").read_text())
  assert meta["split"]["sha256"] == split.digest
  assert meta["dataset"]["sha256"] == dataset.info["sha256"]
  assert meta["dataset"]["source"] == settings["source"]


@pytest.mark.parametrize("missing", ["split.npz", "meta.json"])
def test_what_a_kill_left_out_is_written(folder, settings, missing):
  content = (folder / "meta.json").read_bytes()
  (folder / missing).unlink()
  data.prepare(folder, **settings)
  assert (folder / "meta.json").read_bytes() == content
  data.read(folder)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"seed": 1}, "holds another split (seed was 0, is 1): use another"),
    ({"split": SPLIT | {"members": 9}}, "(members was 10, is 9)"),
    (
      {"split": SPLIT | {"planted": ((4, 2),)}},
      "(planted was [[4, 2], [2, 3]], is [[4, 2]])",
    ),
    ({"split": SPLIT | {"shadows": 4}}, "(shadows was 2, is 4)"),
    ({"resize": 1}, "was made from other data (resize was None, is 1)"),
  ],
)
def test_another_split_or_resize_is_refused(folder, settings, change, message):
  with pytest.raises(ValueError) as error:
    data.prepare(folder, **(settings | change))
  assert message in str(error.value)
  assert str(folder) in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("arrays", "what"),
  [
    ({"images": PIXELS[::-1], "labels": np.arange(30) % 3}, "images of npz:"),
    ({"images": PIXELS, "labels": np.arange(30) % 2}, "labels or captions of"),
  ],
)
def test_a_source_that_changed_is_refused(folder, settings, arrays, what):
  np.savez(settings["source"][4:], **arrays)
  for attempt in (
    lambda: data.prepare(folder, **settings),
    lambda: data.read(folder),
  ):
    with pytest.raises(ValueError, match=f"other data .{what}") as error:
      attempt()
    assert "had sha256" in str(error.value)


def test_a_source_that_moved_but_is_the_same_is_fine(
  folder, settings, tmp_path
):
  (tmp_path / "a.npz").rename(tmp_path / "b.npz")
  with pytest.raises(FileNotFoundError, match=r"a\.npz'?: no such file"):
    data.read(folder)
  moved = settings | {"source": f"npz:{tmp_path / 'b.npz'}"}
  data.prepare(folder, **moved)


def test_foreign_folders_are_refused(tmp_path, settings):
  with pytest.raises(FileNotFoundError, match="holds no prepared data: run di"):
    data.read(tmp_path)
  (tmp_path / "meta.json").write_text('{"status": "finished"}')
  for attempt in (
    lambda: data.prepare(tmp_path, **settings),
    lambda: data.read(tmp_path),
  ):
    with pytest.raises(ValueError, match="does not record 'dataset'"):
      attempt()
  (tmp_path / "file").touch()
  with pytest.raises(OSError, match=r"cannot write to .*writable --workdir"):
    data.prepare(tmp_path / "file" / "data", **settings)

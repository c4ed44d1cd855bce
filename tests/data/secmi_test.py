# SPDX-License-Identifier: Apache-2.0
"""On a small stand-in for the published file, and on the real one if there."""

import hashlib

import numpy as np
import pytest

from diffmem import data
from diffmem.data import secmi
from diffmem.data.dataset import Dataset

RNG = np.random.default_rng(6)
ROWS = 40
PIXELS = RNG.integers(0, 256, (ROWS, 2, 2, 3), dtype=np.uint8)
LABELS = np.array([*secmi.FIRST_LABELS, *RNG.integers(0, 10, ROWS - 10)])
ORDER = RNG.permutation(ROWS)
MEMBERS, OTHERS = np.sort(ORDER[:20]), np.sort(ORDER[20:])


@pytest.fixture
def path(tmp_path, monkeypatch):
  file = tmp_path / "split.npz"
  np.savez(file, mia_train_idxs=ORDER[:20], mia_eval_idxs=ORDER[20:], ratio=0.5)
  digest = hashlib.sha256(file.read_bytes()).hexdigest()
  monkeypatch.setattr(secmi, "SHA256", digest)
  monkeypatch.setattr(secmi, "ROWS", ROWS)
  return file


def cifar(pixels=PIXELS, labels=LABELS, rows=slice(None)):
  return Dataset(pixels[rows], np.arange(ROWS)[rows], labels[rows])


def split(dataset, path, **options):
  sizes = {"members": None, "held_out": None, "calibration": None}
  arguments = {"seed": 0, "name": "secmi-cifar10", "path": path}
  return data.split(dataset, **(arguments | sizes | options))


def test_the_published_parts(path):
  found = split(cifar(), path)
  np.testing.assert_array_equal(found.members, MEMBERS)
  np.testing.assert_array_equal(
    np.sort(np.concatenate([found.held_out, found.calibration])), OTHERS
  )
  assert len(found.held_out) == len(found.calibration) == 10
  other = split(cifar(), path, seed=1)
  np.testing.assert_array_equal(other.members, found.members)
  assert not np.array_equal(other.held_out, found.held_out)


def test_sizes_planting_and_shadows(path):
  found = split(cifar(), path, calibration=5, planted=((3, 2),), shadows=2)
  assert len(found.held_out) == 15
  assert len(found.training_rows) == 24
  assert found.shadows.shape == (2, 35)
  found = split(cifar(), path, members=7, held_out=12)
  assert (len(found.members), len(found.calibration)) == (7, 8)
  assert set(found.members.tolist()) <= set(MEMBERS.tolist())
  with pytest.raises(ValueError, match="members = 21: this dataset holds 20"):
    split(cifar(), path, members=21)
  with pytest.raises(ValueError, match=r"held_out \+ calibration = 21: .* 20"):
    split(cifar(), path, held_out=11, calibration=10)


def test_some_of_the_rows_are_enough(path):
  found = split(cifar(rows=slice(25)), path)
  np.testing.assert_array_equal(found.members, MEMBERS[MEMBERS < 25])
  assert found.info["rows_present"] == 25
  assert found.info["members_present"] == (MEMBERS < 25).sum()


def test_copies_of_members_are_no_control(path):
  pixels = PIXELS.copy()
  pixels[OTHERS[[0, 3]]] = pixels[MEMBERS[5]]
  pixels[OTHERS[[7, 8]]] = pixels[OTHERS[6]]
  pixels[MEMBERS[2]] = pixels[MEMBERS[1]]
  found = split(cifar(pixels), path)
  np.testing.assert_array_equal(found.members, MEMBERS)
  outside = np.sort(np.concatenate([found.held_out, found.calibration]))
  np.testing.assert_array_equal(outside, np.delete(OTHERS, [0, 3, 7, 8]))
  assert found.info["left_out_equal_to_member"] == 2
  assert found.info["left_out_equal_outside"] == 2
  assert found.info["duplicate_members"] == 1


def test_rows_in_another_order_are_refused(path):
  with pytest.raises(ValueError, match=r"have labels \[.*6,9,9,4,1,1,2,7,8,3"):
    split(cifar(labels=LABELS[::-1].copy()), path)
  with pytest.raises(ValueError, match=r"ids \[5, 6, .*its rows would be"):
    split(cifar(rows=slice(5, None)), path)
  with pytest.raises(ValueError, match="needs labels"):
    split(Dataset(PIXELS, np.arange(ROWS)), path)
  with pytest.raises(ValueError, match="has id 41, CIFAR-10 has rows 0 to 39"):
    split(Dataset(PIXELS, np.arange(2, ROWS + 2), LABELS), path)


def test_another_file_is_refused(path, monkeypatch):
  with pytest.raises(ValueError, match="needs path=FILE"):
    split(cifar(), None)
  with pytest.raises(FileNotFoundError, match=r"no file .*absent"):
    split(cifar(), path.parent / "absent.npz")
  with path.open("ab") as f:
    f.write(b"x")
  with pytest.raises(ValueError, match=r"has sha256 .* published split has"):
    split(cifar(), path)


def test_the_real_file(optional_data):
  file = secmi.read(optional_data("secmi_cifar10_split.npz"))
  members, others = file["mia_train_idxs"], file["mia_eval_idxs"]
  assert members[:5].tolist() == [10365, 25853, 41222, 7409, 17080]
  assert others[:5].tolist() == [6640, 7423, 45313, 9057, 42931]
  both = np.sort(np.concatenate([members, others]))
  np.testing.assert_array_equal(both, np.arange(50_000))


def test_the_real_images(optional_data):
  path = optional_data("secmi_cifar10_split.npz")
  dataset = data.load(f"npz:{optional_data('cifar10_20k.npz')}")
  found = split(dataset, path)
  assert found.info["rows_present"] == 20_000
  assert (
    len(found.members)
    + len(found.held_out)
    + len(found.calibration)
    + found.info["left_out_equal_to_member"]
    == 20_000 - (found.info["left_out_equal_outside"])
  )

# SPDX-License-Identifier: Apache-2.0
"""Vectors from a file are taken by id, and bad files are refused by name."""

import numpy as np
import pytest

from diffmem import features

VECTORS = np.arange(12, dtype=np.float64).reshape(4, 3)


@pytest.fixture
def path(tmp_path):
  file = tmp_path / "vectors.npz"
  np.savez(file, generations=VECTORS, data=VECTORS + 1, data_ids=[7, 3, 9, 1])
  return file


def test_rows_by_id(path):
  found = features.rows(path, np.array([3, 1, 3]), "data")
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, VECTORS[[1, 3, 1]] + 1)
  found = features.rows(path, np.array([2, 0]))
  np.testing.assert_array_equal(found, VECTORS[[2, 0]])


def test_an_npy_holds_one_set(tmp_path):
  np.save(tmp_path / "v.npy", VECTORS)
  found = features.rows(tmp_path / "v.npy", np.arange(4))
  np.testing.assert_array_equal(found, VECTORS)


def test_features_by_that_name(path):
  made = features.create("file", path=path, metric="l2")
  assert not made.mirror
  with pytest.raises(ValueError, match="can embed no others"):
    made.embed(np.zeros((1, 2, 2, 1), np.uint8))


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"other": VECTORS}, "no array 'data' .it has other"),
    ({"data": VECTORS[0]}, r"float64\[3\], expected floating-point vectors"),
    ({"data": VECTORS.astype(int)}, "expected floating-point vectors"),
    ({"data": VECTORS * [[1], [1], [np.nan], [1]]}, "first in row 2"),
    ({"data": VECTORS, "data_ids": [1, 2]}, "one integer for each of 4"),
    ({"data": VECTORS, "data_ids": [1, 2, 2, 3]}, "holds an id twice"),
    ({"data": VECTORS[:2]}, r"none for id 2 \(2 of 4 are missing\)"),
    ({"data": np.array([object()])}, "no .npz or .npy of numbers"),
  ],
)
def test_bad_files(tmp_path, arrays, message):
  file = tmp_path / "v.npz"
  np.savez(file, **arrays)
  with pytest.raises(ValueError, match=message) as error:
    features.rows(file, np.arange(4), "data")
  assert "\n" not in str(error.value)


def test_no_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="no such file"):
    features.create("file", path=tmp_path / "x.npz")

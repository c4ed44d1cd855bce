# SPDX-License-Identifier: Apache-2.0
"""Stores: whole chunks, checksums, rows by number."""

import numpy as np
import pytest
import zarr

from diffmem import store

SHAPE = (10, 4, 4, 1)
VALUES = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)


def _filled(path, skip=()):
  made = store.create(path, shape=SHAPE, dtype=np.uint8, chunk=4)
  for number in range(made.chunks):
    if number not in skip:
      made.write(number, VALUES[made.rows(number)])
  return made


def test_rows_come_back_by_slice_number_and_array(tmp_path):
  made = _filled(tmp_path / "a %20 b")
  assert made.complete()
  assert (made[:] == VALUES).all()
  assert (made[3:9] == VALUES[3:9]).all()
  assert (made[::3] == VALUES[::3]).all()
  assert (made[-1] == VALUES[-1]).all()
  assert made[5:5].shape == (0, 4, 4, 1)
  picked = np.array([9, 0, 4])
  assert (made[picked] == VALUES[picked]).all()
  assert (np.concatenate([b for _, b in made.blocks()]) == VALUES).all()


def test_other_programs_read_it(tmp_path):
  _filled(tmp_path / "s")
  assert (zarr.open_array(str(tmp_path / "s"), mode="r")[:] == VALUES).all()
  numbers = store.create(tmp_path / "n", shape=(3, 2), dtype=np.int64, chunk=2)
  numbers.write(0, np.array([[1, -2], [3, 2**40]]))
  numbers.write(1, np.array([[5, 6]]))
  read = zarr.open_array(str(tmp_path / "n"), mode="r")[:]
  assert read.tolist() == [[1, -2], [3, 2**40], [5, 6]]


def test_a_chunk_of_zeros_counts_as_written(tmp_path):
  made = store.create(tmp_path / "s", shape=(4, 2), dtype="uint8", chunk=2)
  made.write(1, np.zeros((2, 2), np.uint8))
  assert store.open(tmp_path / "s").written() == [1]


def test_missing_rows_are_refused_by_number(tmp_path):
  made = _filled(tmp_path / "s", skip=[1])
  assert made.written() == [0, 2]
  assert (made[:4] == VALUES[:4]).all()
  with pytest.raises(ValueError, match=r"rows 4\.\.7 are missing"):
    made[2:6]


@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_a_damaged_chunk_is_named(tmp_path, harm):
  _filled(tmp_path / "s")
  file = tmp_path / "s" / "c" / "1" / "0" / "0" / "0"
  content = bytearray(file.read_bytes())
  content[7] ^= 1
  file.write_bytes({"flip": content, "cut": content[:9], "empty": b""}[harm])
  opened = store.open(tmp_path / "s")
  message = r"c/1/0/0/0 \(rows 4\.\.7\) is damaged"
  with pytest.raises(ValueError, match=message):
    opened.verify()
  with pytest.raises(ValueError, match=message):
    opened[5]
  assert (opened[:4] == VALUES[:4]).all()


def test_what_a_killed_write_leaves_is_no_chunk(tmp_path):
  _filled(tmp_path / "s", skip=[1])
  folder = tmp_path / "s" / "c" / "1" / "0" / "0"
  folder.mkdir(parents=True)
  (folder / "0.__lock").write_bytes(VALUES[4:8].tobytes()[:11])
  made = store.create(tmp_path / "s", shape=SHAPE, dtype=np.uint8, chunk=4)
  assert made.written() == [0, 2]
  made.write(1, VALUES[4:8])
  assert (store.open(tmp_path / "s")[:] == VALUES).all()


def test_another_shape_or_values_that_do_not_fit_are_refused(tmp_path):
  made = _filled(tmp_path / "s")
  with pytest.raises(ValueError, match="another shape"):
    store.create(tmp_path / "s", shape=(11, 4, 4, 1), dtype="uint8", chunk=4)
  with pytest.raises(ValueError, match=r"takes uint8\[2, 4, 4, 1\]"):
    made.write(2, VALUES[:4])
  with pytest.raises(ValueError, match="got float32"):
    made.write(0, VALUES[:4].astype(np.float32))
  with pytest.raises(ValueError, match="at least one row"):
    store.create(tmp_path / "e", shape=(0, 4), dtype="uint8", chunk=4)
  with pytest.raises(FileNotFoundError, match="no zarr v3 array"):
    store.open(tmp_path / "absent")

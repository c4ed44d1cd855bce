# SPDX-License-Identifier: Apache-2.0
"""Groups of near-duplicates against a naive twin, ids that stay, refusals."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem import data
from diffmem.data import dedup

SPLIT = dict(members=30, held_out=30, calibration=30)


@functools.cache
def _digits():
  return data.load("digits")


@functools.cache
def _split(**changes):
  planted = ((5, 2), (3, 1))
  return data.split(_digits(), seed=3, **SPLIT, planted=planted, **changes)


def _pairs(split, rows):
  i, j = np.array(rows, np.int64).reshape(-1, 2).T
  return dedup.Pairs(
    split.members[i], split.members[j], np.zeros(len(i)), split.digest
  )


@settings(max_examples=30, deadline=None)
@given(
  st.lists(
    st.tuples(st.integers(0, 29), st.integers(0, 29)), min_size=0, max_size=20
  )
)
def test_groups_are_what_pairs_join_up_to(rows):
  """Against labels passed on until nothing changes."""
  split = _split()
  label = list(range(30))
  for _ in range(30):
    for i, j in rows:
      label[i] = label[j] = min(label[i], label[j])
  found = dedup.kept(split.members, _pairs(split, rows))
  np.testing.assert_array_equal(found, split.members[label])


def test_one_of_each_group_stays_and_stands_once():
  split = _split()
  after = dedup.apply(split, _pairs(split, [(4, 9), (9, 2), (20, 21)]))
  gone = split.members[[4, 9, 21]]
  np.testing.assert_array_equal(
    after.members, np.setdiff1d(split.members, gone)
  )
  assert (after.copies == 1).all()
  for part in ("held_out", "calibration"):
    np.testing.assert_array_equal(getattr(after, part), getattr(split, part))
  assert not np.isin(gone, after.pool).any()
  about = after.info["dedup"]
  assert about["rows"] == [30 + 2 * 4 + 2, 27]
  assert about["ids"] == [30, 27]
  assert after.info["members"] == 27
  assert after.digest == after.info["sha256"] != split.digest


def test_it_tells_how_often_each_group_had_stood():
  split = _split()
  planted = np.flatnonzero(split.copies == 5)
  once = int(np.flatnonzero(split.copies == 1)[0])
  pairs = _pairs(split, [(min(once, planted[0]), max(once, planted[0]))])
  stood = dedup.apply(split, pairs).info["dedup"]["stood"]
  assert set(stood) == {"3", "5", "6"}
  assert stood["5"] == [int(split.members[planted[1]])]


def test_an_edge_file_comes_back(tmp_path):
  split = _split()
  pairs = _pairs(split, [(1, 2), (3, 4)])
  dedup.save(tmp_path / "edges.npz", pairs)
  found = dedup.read(tmp_path / "edges.npz")
  np.testing.assert_array_equal(found.i, pairs.i)
  assert found.split == split.digest


def test_what_cannot_be_is_refused(tmp_path):
  split = _split()
  with pytest.raises(FileNotFoundError, match="run diffmem-train"):
    dedup.read(tmp_path / "edges.npz")
  (tmp_path / "edges.npz").write_bytes(b"no")
  with pytest.raises(ValueError, match="is no edge file"):
    dedup.read(tmp_path / "edges.npz")
  other = _pairs(_split(), [(1, 2)])
  with pytest.raises(ValueError, match="of another split"):
    dedup.apply(data.split(_digits(), seed=4, **SPLIT), other)
  with pytest.raises(ValueError, match="shadows=2"):
    dedup.apply(_split(shadows=2), other)
  outside = dedup.Pairs(
    split.members[:1], split.held_out[:1], np.zeros(1), split.digest
  )
  with pytest.raises(ValueError, match="which is no member"):
    dedup.apply(split, outside)

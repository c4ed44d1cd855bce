# SPDX-License-Identifier: Apache-2.0
"""A search with mirror images equals brute force over both orientations."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffmem import distances, store
from diffmem.distances import metrics, run


def naive(queries, references, k):
  """Brute force: the smaller of two distances, sorted by (squared, id)."""
  squared = np.minimum(
    metrics.squared(queries, references),
    metrics.squared(queries, references[:, :, ::-1]),
  )
  ids = np.stack(
    [np.lexsort((np.arange(len(references)), row))[:k] for row in squared]
  )
  return ids, np.take_along_axis(squared, ids, axis=1)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  levels=st.sampled_from([2, 256]),  # few levels: many ties
  n=st.sampled_from([1, 5, 12]),
  m=st.sampled_from([1, 7, 30]),
  k=st.integers(1, 30),
  block=st.sampled_from([4, 12]),
  selection=st.sampled_from(["host", "device"]),
  hold=st.sampled_from([0, 2**20]),
)
def test_equals_brute_force(seed, levels, n, m, k, block, selection, hold):
  rng = np.random.default_rng(seed)
  scale = 255 // (levels - 1)
  queries, references = (
    (rng.integers(0, levels, (count, 2, 3, 1)) * scale).astype(np.uint8)
    for count in (n, m)
  )
  references[0] = queries[-1][:, ::-1]
  k = min(k, m)
  found = distances.nearest(
    queries,
    references,
    k,
    mirror=True,
    block=block,
    tile=8,
    selection=selection,
    hold=hold,
  )
  ids, squared = naive(queries, references, k)
  np.testing.assert_array_equal(found.ids, ids)
  np.testing.assert_array_equal(found.squared, squared)
  assert all(len(set(row)) == k for row in found.ids)


def test_a_mirrored_copy_is_found_with_the_option_alone():
  rng = np.random.default_rng(0)
  references = rng.integers(0, 256, (9, 4, 6, 3), dtype=np.uint8)
  queries = references[[5, 2]][:, :, ::-1]
  found = distances.nearest(queries, references, 3, mirror=True)
  np.testing.assert_array_equal(found.ids[:, 0], [5, 2])
  np.testing.assert_array_equal(found.squared[:, 0], [0, 0])
  assert distances.nearest(queries, references, 3).squared.min() > 0


def test_on_disk_and_resumed(tmp_path):
  rng = np.random.default_rng(1)
  queries = rng.integers(0, 256, (21, 3, 3, 1), dtype=np.uint8)
  references = rng.integers(0, 256, (12, 3, 3, 1), dtype=np.uint8)
  options = {"k": 5, "block": 8, "progress": False}
  for _ in range(2):
    run.search(tmp_path / "both", queries, references, mirror=True, **options)
    ids, squared = naive(queries, references, 5)
    found = [
      store.open(tmp_path / "both" / name)[:] for name in ("indices", "squared")
    ]
    np.testing.assert_array_equal(found[0], ids)
    np.testing.assert_array_equal(found[1], squared)
    (tmp_path / "both" / "indices" / "c" / "1" / "0").unlink()


def test_images_without_sides_are_refused(tmp_path):
  flat = np.zeros((3, 12), np.uint8)
  with pytest.raises(ValueError, match=r"shape \(12,\) cannot be mirrored"):
    distances.nearest(flat, flat, 1, mirror=True)
  with pytest.raises(ValueError, match="cannot be mirrored"):
    run.search(tmp_path / "x", flat, flat, k=1, block=2, mirror=True)
  assert not (tmp_path / "x").exists()

# SPDX-License-Identifier: Apache-2.0
"""The search on disk equals the one in memory and goes on where it stopped."""

import numpy as np
import pytest

from diffmem import distances, store
from diffmem.distances import knn, run

RNG = np.random.default_rng(0)
QUERIES = RNG.integers(0, 256, (25, 3, 3, 1), dtype=np.uint8)
REFERENCES = RNG.integers(0, 256, (12, 3, 3, 1), dtype=np.uint8)


def read(folder):
  return [store.open(folder / n)[:] for n in ("indices", "squared")]


@pytest.mark.parametrize("from_store", [False, True])
def test_equals_the_search_in_memory(tmp_path, from_store):
  queries = QUERIES
  if from_store:
    queries = store.create(
      tmp_path / "images", shape=QUERIES.shape, dtype="uint8", chunk=10
    )
    for i in range(3):
      queries.write(i, QUERIES[10 * i : 10 * i + 10])
  found = run.search(
    tmp_path / "a_to_b", queries, REFERENCES, k=5, block=8, progress=False
  )
  about = {"queries": 25, "references": 12, "k": 5}
  assert found == about | {"form": "int8", "selection": "host"}
  expected = distances.nearest(QUERIES, REFERENCES, 5)
  indices, squared = read(tmp_path / "a_to_b")
  np.testing.assert_array_equal(indices, expected.ids)
  np.testing.assert_array_equal(squared, expected.squared)
  assert indices.dtype == squared.dtype == np.int64


def test_k_is_cut_to_the_number_of_references(tmp_path):
  found = run.search(tmp_path, QUERIES, REFERENCES, k=50, block=25)
  assert found["k"] == 12
  assert store.open(tmp_path / "indices").shape == (25, 12)


def test_goes_on_where_it_stopped(tmp_path, monkeypatch):
  searched = []
  search = knn.Index.search

  def stop_at_third(self, queries, k):
    searched.append(len(searched))
    if len(searched) == 3:
      raise KeyboardInterrupt
    return search(self, queries, k)

  monkeypatch.setattr(knn.Index, "search", stop_at_third)
  with pytest.raises(KeyboardInterrupt):
    run.search(tmp_path, QUERIES, REFERENCES, k=3, block=8)
  assert store.open(tmp_path / "indices").written() == [0, 1]
  run.search(tmp_path, QUERIES, REFERENCES, k=3, block=8)
  assert len(searched) == 3 + 2  # of four chunks, two were left
  run.search(tmp_path, QUERIES, REFERENCES, k=3, block=8)
  assert len(searched) == 5
  expected = distances.nearest(QUERIES, REFERENCES, 3)
  np.testing.assert_array_equal(read(tmp_path)[0], expected.ids)


def test_a_chunk_that_one_array_lacks_is_made_again(tmp_path):
  run.search(tmp_path, QUERIES, REFERENCES, k=3, block=8)
  calm = read(tmp_path)
  part = store.create(
    tmp_path / "b" / "squared", shape=(25, 3), dtype="int64", chunk=8
  )
  part.write(0, calm[1][:8])
  run.search(tmp_path / "b", QUERIES, REFERENCES, k=3, block=8)
  np.testing.assert_array_equal(read(tmp_path / "b"), calm)


@pytest.mark.parametrize(
  ("queries", "k", "message"),
  [
    (QUERIES.astype(np.float32), 3, "queries have dtype float32"),
    (QUERIES[:0], 3, "at least one image"),
    (QUERIES[:, :2], 3, "expected one shape"),
    (QUERIES, 0, "expected at least 1"),
  ],
)
def test_bad_input_is_refused_before_anything_is_written(
  tmp_path, queries, k, message
):
  with pytest.raises(ValueError, match=message):
    run.search(tmp_path / "x", queries, REFERENCES, k=k, block=8)
  assert not (tmp_path / "x").exists()

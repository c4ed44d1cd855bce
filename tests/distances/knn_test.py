# SPDX-License-Identifier: Apache-2.0
"""The blockwise search equals the definition, whatever the tiling."""

import inspect

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffmem import distances
from diffmem.distances import knn, metrics, tiled


def naive(queries, references, k):
  """Neighbours by the definition, sorted by (squared, id)."""
  squared = metrics.squared(queries, references)
  ids = np.stack(
    [np.lexsort((np.arange(len(references)), row))[:k] for row in squared]
  )
  return ids, np.take_along_axis(squared, ids, axis=1)


def assert_equals_definition(queries, references, k, **kw):
  found = distances.nearest(queries, references, k, **kw)
  ids, squared = naive(queries, references, k)
  np.testing.assert_array_equal(found.squared, squared)
  np.testing.assert_array_equal(found.ids, ids)
  assert found.ids.dtype == np.int64
  assert found.squared.dtype == np.int64
  d = np.prod(queries.shape[1:])
  np.testing.assert_allclose(
    found.distances, np.sqrt(squared / d) / 255, rtol=1e-15
  )


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  levels=st.sampled_from([2, 3, 256]),  # few levels: many ties
  n=st.sampled_from([1, 5, 12]),
  m=st.sampled_from([1, 7, 30]),
  k=st.integers(1, 30),
  block=st.sampled_from([4, 12]),
  tile=st.sampled_from([3, 8, 64]),
)
def test_equals_definition(seed, levels, n, m, k, block, tile):
  rng = np.random.default_rng(seed)
  scale = 255 // (levels - 1)
  queries = (rng.integers(0, levels, (n, 2, 3, 1)) * scale).astype(np.uint8)
  references = (rng.integers(0, levels, (m, 2, 3, 1)) * scale).astype(np.uint8)
  references[0] = queries[-1]  # an exact copy
  assert_equals_definition(
    queries, references, min(k, m), block=block, tile=tile
  )


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (104, 106, 3)])
def test_copies_are_at_zero_and_one_level_at_one(shape):
  rng = np.random.default_rng(0)
  references = rng.integers(0, 255, (6, *shape), dtype=np.uint8)
  queries = references.copy()
  queries[3:, 0, 0, 0] += 1
  found = distances.nearest(queries, references, 1)
  np.testing.assert_array_equal(found.ids[:, 0], np.arange(6))
  np.testing.assert_array_equal(found.squared[:, 0], [0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize("side", [32, 128, 256])  # 3,072 to 196,608 values
def test_black_against_white(side):
  shape = (1, side, side, 3)
  black, white = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
  grey = np.full(shape, 128, np.uint8)
  found = distances.nearest(black, np.concatenate([white, black, grey]), 3)
  d = side * side * 3
  np.testing.assert_array_equal(found.ids, [[1, 2, 0]])
  np.testing.assert_array_equal(found.squared, [[0, d * 128**2, d * 255**2]])
  np.testing.assert_allclose(found.distances, [[0, 128 / 255, 1]], rtol=1e-15)


@pytest.mark.parametrize("d", [tiled.INT32_DIMS, tiled.INT32_DIMS + 1])
def test_exact_on_both_sides_of_the_int32_limit(d):
  rng = np.random.default_rng(1)
  queries = rng.integers(0, 256, (3, d), dtype=np.uint8)
  queries[0] = 0
  references = rng.integers(0, 256, (4, d), dtype=np.uint8)
  references[2] = 255
  assert_equals_definition(queries, references, 4, tile=3)


def test_ties_go_to_the_lower_id_across_tiles():
  references = np.full((10, 4), 7, np.uint8)
  references[6] = 6
  queries = np.full((2, 4), 6, np.uint8)
  found = distances.nearest(queries, references, 4, tile=3)
  np.testing.assert_array_equal(found.ids, [[6, 0, 1, 2]] * 2)


def test_references_in_falling_order_of_distance():
  """Each tile replaces the whole of what was kept."""
  references = np.arange(64, 0, -1, dtype=np.uint8)[:, None]
  queries = np.zeros((3, 1), np.uint8)
  assert_equals_definition(queries, references, 5, tile=8)


IMAGES = np.zeros((3, 2, 2, 1), np.uint8)


@pytest.mark.parametrize(
  ("queries", "references", "k", "message"),
  [
    (IMAGES, IMAGES, 4, "k = 4 neighbours, expected 1 to 3"),
    (IMAGES, IMAGES, 0, "k = 0 neighbours"),
    (IMAGES / 255.0, IMAGES, 1, "queries have dtype float64, expected uint8"),
    (IMAGES, IMAGES.astype(np.int8), 1, "references have dtype int8"),
    (IMAGES, IMAGES[:, :1], 1, r"\(2, 2, 1\) but references \(1, 2, 1\)"),
    (IMAGES[:0], IMAGES, 1, "queries have shape .* at least one image"),
    (IMAGES, IMAGES[:0], 1, "references have shape .* at least one image"),
    (IMAGES[:, 0, 0, 0], IMAGES, 1, "queries have shape"),
    ([[1, 2]], IMAGES, 1, "queries is a list, expected a uint8 array"),
  ],
)
def test_bad_input_is_refused(queries, references, k, message):
  with pytest.raises(ValueError, match=message) as error:
    # Past the tests' own type checks, as users call it.
    inspect.unwrap(knn.nearest)(queries, references, k)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("sizes", [{"block": 0}, {"tile": 0}])
def test_block_and_tile_are_positive(sizes):
  with pytest.raises(ValueError, match="expected at least 1"):
    distances.nearest(IMAGES, IMAGES, 1, **sizes)

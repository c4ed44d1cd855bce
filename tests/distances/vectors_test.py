# SPDX-License-Identifier: Apache-2.0
"""Searches of float vectors equal float64 brute force, ties and all."""

import inspect

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.spatial import distance

from diffmem import mesh
from diffmem.distances import vectors

METRICS = {
  "l2": lambda x, y: distance.cdist(x, y),
  "cosine": lambda x, y: distance.cdist(x, y, "cosine"),
}


def definition(queries, references, metric):
  return vectors.METRICS[metric](queries[:, None], references[None])


def assert_equals_brute_force(queries, references, k, metric, **kw):
  found = vectors.nearest_vectors(queries, references, k, metric=metric, **kw)
  scores = definition(queries, references, metric)
  ids = np.argsort(scores, axis=1, kind="stable")[:, :k]
  np.testing.assert_array_equal(found.ids, ids)
  np.testing.assert_array_equal(
    found.distances, np.take_along_axis(scores, ids, axis=1)
  )


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_definitions_against_scipy(metric):
  rng = np.random.default_rng(0)
  x, y = (rng.normal(size=(n, 7)).astype(np.float32) for n in (5, 6))
  np.testing.assert_allclose(
    definition(x, y, metric),
    METRICS[metric](x.astype(np.float64), y.astype(np.float64)),
    rtol=1e-12,
  )


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  metric=st.sampled_from(["l2", "cosine"]),
  scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e18]),
  spread=st.sampled_from([0.0, 1e-7, 1e-4, 1.0]),  # near-duplicates, copies
  k=st.sampled_from([1, 5, 40]),
  margin=st.sampled_from([0, 2, 16]),
)
def test_equals_brute_force(seed, metric, scale, spread, k, margin):
  rng = np.random.default_rng(seed)
  centre = rng.normal(size=(1, 8))
  queries = (centre + spread * rng.normal(size=(6, 8))) * scale
  references = (centre + spread * rng.normal(size=(40, 8))) * scale
  queries, references = (v.astype(np.float32) for v in (queries, references))
  references[20:25] = references[3]
  references[7] = queries[2]
  assert_equals_brute_force(
    queries, references, k, metric, margin=margin, tile=2
  )


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(
  "options",
  [
    {"selection": "device", "tile": 32},
    {"selection": "host", "tile": 24},
    {"mesh": 1},
    {"hold": 1},
  ],
)
def test_selection_devices_and_streams_change_nothing(metric, options):
  rng = np.random.default_rng(1)
  queries = rng.normal(size=(30, 64)).astype(np.float32)
  references = rng.normal(size=(300, 64)).astype(np.float32)
  references[100:140] = references[:40] * np.float32(1 + 2**-23)
  if "mesh" in options:
    options = {"mesh": mesh.local_mesh(options["mesh"])}
  assert_equals_brute_force(
    queries, references, 20, metric, block=16, **options
  )


def test_a_thousand_copies():
  """Nothing tells them apart but their ids."""
  references = np.ones((1000, 4), np.float32)
  found = vectors.nearest_vectors(references[:3], references, 5)
  np.testing.assert_array_equal(found.ids, [[0, 1, 2, 3, 4]] * 3)
  np.testing.assert_array_equal(found.distances, np.zeros((3, 5)))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_within_equals_brute_force(metric):
  rng = np.random.default_rng(2)
  queries = rng.normal(size=(20, 5)).astype(np.float32)
  references = rng.normal(size=(50, 5)).astype(np.float32)
  references[30] = queries[4]
  scores = definition(queries, references, metric)
  for threshold in (0.0, float(np.sort(scores, axis=None)[60]), 1e3):
    found = vectors.vectors_within(
      queries, references, threshold, metric=metric, tile=4, block=8
    )
    row, column = np.nonzero(scores <= threshold)
    np.testing.assert_array_equal(found.queries, row)
    np.testing.assert_array_equal(found.references, column)
    np.testing.assert_array_equal(found.distances, scores[row, column])
  assert len(row) == 1000


GOOD = np.ones((3, 4), np.float32)
NAN = np.where(np.arange(3)[:, None] == 1, np.nan, GOOD).astype(np.float32)


@pytest.mark.parametrize(
  ("queries", "references", "k", "metric", "message"),
  [
    (GOOD, NAN, 1, "l2", "references hold NaN or infinite .* row 1"),
    (GOOD * np.float32(np.inf), GOOD, 1, "l2", "queries hold NaN .* row 0"),
    (GOOD, 0 * GOOD, 1, "cosine", "vector of zeros in row 0"),
    (GOOD, GOOD.astype(np.float64), 1, "l2", "references have dtype float64"),
    (GOOD.astype(np.uint8), GOOD, 1, "l2", "expected float32 vectors"),
    (GOOD, GOOD[:, :2], 1, "l2", "of 4 values but references of 2"),
    (GOOD, GOOD[:0], 1, "l2", "at least one vector"),
    (GOOD[0], GOOD, 1, "l2", "at least one vector"),
    (GOOD, GOOD, 4, "l2", "k = 4 neighbours, expected 1 to 3"),
    (GOOD, GOOD, 1, "dot", "metric = 'dot', expected one of cosine, l2"),
    ([[1.0]], GOOD, 1, "l2", "queries is a list, expected a float32 array"),
  ],
)
def test_bad_input_is_refused(queries, references, k, metric, message):
  search = inspect.unwrap(vectors.nearest_vectors)
  with pytest.raises(ValueError, match=message) as error:
    search(queries, references, k, metric=metric)
  assert "\n" not in str(error.value)


def test_bad_threshold_is_refused():
  with pytest.raises(ValueError, match="threshold = -1"):
    vectors.vectors_within(GOOD, GOOD, -1.0)

# SPDX-License-Identifier: Apache-2.0
"""The blockwise search equals the definition, whatever the tiling."""

import inspect

import hypothesis
import jax
import jax.export
import numpy as np
import pytest
import zarr
from hypothesis import strategies as st

from diffmem import distances, mesh, store
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
  tile=st.sampled_from([1, 8]),
  form=st.sampled_from(sorted(tiled.FORMS)),
  selection=st.sampled_from(["host", "device"]),
  hold=st.sampled_from([0, 2**20]),
)
def test_equals_definition(
  seed, levels, n, m, k, block, tile, form, selection, hold
):
  rng = np.random.default_rng(seed)
  scale = 255 // (levels - 1)
  queries = (rng.integers(0, levels, (n, 2, 3, 1)) * scale).astype(np.uint8)
  references = (rng.integers(0, levels, (m, 2, 3, 1)) * scale).astype(np.uint8)
  references[0] = queries[-1]  # an exact copy
  assert_equals_definition(
    queries,
    references,
    min(k, m),
    block=block,
    tile=tile,
    form=form,
    selection=selection,
    hold=hold,
  )


@pytest.mark.parametrize("selection", ["host", "device"])
@pytest.mark.parametrize("k", range(1, 31))
def test_every_k_around_a_tile_of_eight(selection, k):
  rng = np.random.default_rng(k)
  images = (rng.integers(0, 2, (35, 2, 3, 1)) * 255).astype(np.uint8)
  assert_equals_definition(
    images[:5], images[5:], k, tile=1, selection=selection
  )


@pytest.mark.parametrize("selection", ["host", "device"])
@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("levels", [2, 256])
def test_devices_order_and_long_lists(selection, devices, levels):
  """Enough of everything that bounds, cuts and bursts all happen."""
  rng = np.random.default_rng(3)
  scale = 255 // (levels - 1)
  queries = rng.integers(0, levels, (20, 12), dtype=np.uint8) * scale
  references = rng.integers(0, levels, (5000, 12), dtype=np.uint8) * scale
  far = np.argsort(-metrics.squared(queries[:1], references)[0])
  for order in (slice(None), far):  # falling distance: all replace all
    assert_equals_definition(
      queries,
      references[order],
      60,
      block=16,
      tile=256 if selection == "host" else 2560,
      selection=selection,
      mesh=mesh.local_mesh(devices),
    )


def test_k_of_a_thousand():
  rng = np.random.default_rng(4)
  queries = rng.integers(0, 256, (3, 5), dtype=np.uint8)
  references = rng.integers(0, 256, (2500, 5), dtype=np.uint8)
  for selection in ("host", "device"):
    assert_equals_definition(
      queries, references, 1000, tile=32, selection=selection
    )


@pytest.mark.parametrize(
  "d", [1, 1024, 3072, tiled.INT32_DIMS, tiled.FILTER_DIMS + 1, 196608]
)
@pytest.mark.parametrize("form", sorted(tiled.FORMS))
def test_every_form_is_exact_at_the_extremes(d, form):
  """All 0, all 255, all 128, one level off, and noise."""
  rng = np.random.default_rng(5)
  levels = np.array([0, 255, 128, 127], np.uint8)[:, None]
  images = np.broadcast_to(levels, (4, d))
  noise = rng.integers(0, 256, (2, d), dtype=np.uint8)
  one = images.copy()
  one[:, d // 2] ^= 1
  references = np.concatenate([images, one, noise])
  queries = references[::-1].copy()
  expected = metrics.squared(queries, references)
  a, b = tiled.centre(queries), tiled.centre(references)
  norms = tiled.norms(a), tiled.norms(b)
  found = tiled.squared(*(jax.device_put(v) for v in (a, b)), *norms, form=form)
  np.testing.assert_array_equal(np.asarray(found, np.int64), expected)
  assert_equals_definition(queries, references, 10, form=form)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
  d=st.sampled_from([3072, 49152, 196608]),
  level=st.integers(0, 255),
  other=st.integers(0, 255),
  where=st.lists(st.integers(0, 3071), min_size=1, max_size=4, unique=True),
)
def test_constant_images_and_few_levels(d, level, other, where):
  queries = np.full((2, d), level, np.uint8)
  references = np.full((3, d), other, np.uint8)
  references[0] = level
  queries[1, where] = level - 1 if level else 1
  found = distances.nearest(queries, references, 3)
  far = d * (level - other) ** 2
  assert sorted(found.squared[0]) == sorted([0, far, far])
  np.testing.assert_array_equal(
    found.squared,
    np.sort(metrics.squared(queries, references), axis=1),
  )
  assert len(where) in metrics.squared(queries[1:], references[:1])


def test_references_and_queries_from_disk(tmp_path):
  rng = np.random.default_rng(6)
  references = rng.integers(0, 256, (50, 2, 3, 1), dtype=np.uint8)
  expected = distances.nearest(references[:20], references, 4)
  stored = store.create(
    tmp_path / "store", shape=references.shape, dtype="uint8", chunk=20
  )
  for i in range(stored.chunks):
    stored.write(i, references[stored.rows(i)])
  mapped = np.memmap(tmp_path / "map", np.uint8, "w+", shape=references.shape)
  mapped[:] = references
  outside = zarr.create_array(tmp_path / "zarr", data=references)
  for kind in (stored, mapped, outside):
    for hold in (0, 2**20):
      found = inspect.unwrap(knn.nearest)(
        kind, kind, 4, tile=2, block=8, hold=hold
      )
      np.testing.assert_array_equal(found.ids[:20], expected.ids)
      np.testing.assert_array_equal(found.squared[:20], expected.squared)


def test_a_stream_serves_many_blocks():
  """References that are not held are read once for `group` queries."""
  reads = []

  class Counted(np.ndarray):
    def __getitem__(self, index):
      reads.append(index)
      return super().__getitem__(index)

  images = np.zeros((64, 4), np.uint8)
  index = knn.Index(images.view(Counted), tile=2, block=4, hold=64)
  assert index.group == 16
  index.search(images[:16], 1)
  assert len(reads) == 64 // (2 * len(jax.devices()))
  held = knn.Index(images.view(Counted), tile=2, block=4)
  reads.clear()
  for _ in range(3):
    held.search(images[:4], 1)
  assert held.group == 4
  assert len(reads) == 64 // (2 * len(jax.devices()))


def test_an_unfinished_store_is_refused(tmp_path):
  images = np.zeros((5, 2, 2, 1), np.uint8)
  unfinished = store.create(
    tmp_path / "images", shape=(5, 2, 2, 1), dtype="uint8", chunk=2
  )
  unfinished.write(0, images[:2])
  search = inspect.unwrap(knn.nearest)
  with pytest.raises(ValueError, match="images is still being written"):
    search(images, unfinished, 1)
  with pytest.raises(ValueError, match="queries are not complete"):
    search(unfinished, images, 1)


def test_lowers_for_tpu():
  """Products, filter and selection of a tile, on one abstract device."""
  one = mesh.local_mesh(1)
  rows = [jax.ShapeDtypeStruct((n, 2500), np.int8) for n in (16, 512)]
  norms = [jax.ShapeDtypeStruct((n,), np.int32) for n in (16, 512)]
  scalar = jax.ShapeDtypeStruct((), np.int32)
  best = jax.ShapeDtypeStruct((1, 16, 5), np.int32)
  for form in tiled.FORMS:
    near = tiled.sharded_near(one, form)
    exported = jax.export.export(near, platforms=["tpu"])(
      *rows, (norms[1],), norms[0]
    )
    assert exported.platforms == ("tpu",)
    assert exported.out_avals[0].shape == (16, 512)
    meet = knn.sharded_meet(one, tiled.values, form, 5)
    exported = jax.export.export(meet, platforms=["tpu"])(
      rows[0], rows[1], *norms, scalar, scalar, best, best
    )
    assert exported.out_avals[0].shape == (1, 16, 5)


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


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"form": "int4"},
      "form = 'int4', expected one of bfloat16, float32, int8",
    ),
    ({"selection": "best"}, "selection = 'best', expected one of device, host"),
  ],
)
def test_unknown_options_list_what_there_is(options, message):
  with pytest.raises(ValueError, match=message):
    distances.nearest(IMAGES, IMAGES, 1, **options)


@pytest.mark.parametrize("sizes", [{"block": 0}, {"tile": 0}])
def test_block_and_tile_are_positive(sizes):
  with pytest.raises(ValueError, match="expected at least 1"):
    distances.nearest(IMAGES, IMAGES, 1, **sizes)

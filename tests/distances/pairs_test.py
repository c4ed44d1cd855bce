# SPDX-License-Identifier: Apache-2.0
"""All pairs within a distance equal the definition's, and resume on disk."""

import importlib
import inspect

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffmem import distances, store
from diffmem.distances import blocks, metrics, patches
from diffmem.distances import edges as edges_module

module = importlib.import_module("diffmem.distances.pairs")


def naive(a, b, threshold, patch=None):
  """{(i, j): squared} of the float definition, pair by pair."""
  other = a if b is None else b
  if patch is None:
    squared, d = metrics.squared(a, other), int(np.prod(a.shape[1:]))
  else:
    squared, d = patches.squared(a, other, patch), patch * patch * a.shape[3]
  within = metrics.rms(squared, d) <= threshold
  if b is None:
    within = np.triu(within, 1)
  return {(i, j): squared[i, j] for i, j in np.argwhere(within)}


def assert_equal(edges, expected, d):
  found = list(zip(edges.i.tolist(), edges.j.tolist(), strict=True))
  assert found == sorted(expected)
  assert edges.squared.tolist() == [expected[pair] for pair in found]
  assert edges.i.dtype == edges.j.dtype == edges.squared.dtype == np.int64
  np.testing.assert_array_equal(
    edges.distances, np.sqrt(edges.squared / d) / 255
  )


def images_of(seed, n, shape=(2, 4, 1), levels=3):
  rng = np.random.default_rng(seed)
  scale = 255 // (levels - 1)
  images = (rng.integers(0, levels, (n, *shape)) * scale).astype(np.uint8)
  images[-1] = images[0]
  return images


@pytest.fixture
def tiny(monkeypatch):
  """Blocks of 16, none of them kept: many tiles from few images."""
  monkeypatch.setattr(patches, "BLOCK_BYTES", 1)
  monkeypatch.setattr(blocks, "KEPT_BYTES", 1)


@hypothesis.settings(
  max_examples=25,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  n=st.sampled_from([1, 2, 37]),
  m=st.sampled_from([None, 1, 20]),
  threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]) | st.floats(0, 1),
)
def test_equals_definition(tiny, seed, n, m, threshold):
  a = images_of(seed, n)
  b = None if m is None else images_of(seed + 1, m)
  edges = distances.pairs(a, b, threshold=threshold)
  assert_equal(edges, naive(a, b, threshold), 8)


@pytest.mark.parametrize("m", [None, 9])
def test_in_patches(tiny, m):
  a = images_of(0, 40, (4, 4, 1))
  b = None if m is None else images_of(1, m, (4, 4, 1))
  edges = distances.pairs(a, b, threshold=0.7, patch=2)
  expected = naive(a, b, 0.7, 2)
  assert 0 < len(expected) < 600
  assert_equal(edges, expected, 4)


@pytest.mark.parametrize("d", [1, 12, 3072, 49_152, 196_608])
def test_the_bound_is_where_the_float_definition_turns(d):
  rng = np.random.default_rng(d)
  top = 255**2 * d
  for squared in [0, 1, top - 1, top, *rng.integers(0, top, 30).tolist()]:
    exactly = metrics.rms(np.array([squared]), d)[0]
    below = np.nextafter(exactly, -1)
    bound = module.largest_within(float(exactly), d)
    around = np.arange(bound, min(bound + 2, top + 1))
    assert bound >= squared  # a pair at the threshold is in
    within = metrics.rms(around, d) <= exactly
    assert within.tolist() == [True, False][: len(around)]
    if below >= 0:
      assert module.largest_within(float(below), d) < squared


@pytest.mark.parametrize(
  ("side", "patch"), [(16, None), (128, None), (128, 64)]
)
def test_a_pair_at_the_threshold_and_one_level_beyond(side, patch):
  """256, and 49,152 values, where int32 overflows."""
  images = np.zeros((3, side, side, 3), np.uint8)
  images[1] = 255
  images[2] = 255
  images[2, 0, 0, 0] = 254
  last = float(distances.pairs(images, threshold=1.0, patch=patch).distances[1])
  edges = distances.pairs(images, threshold=last, patch=patch)
  if patch is None:
    assert list(zip(edges.i, edges.j, strict=True)) == [(0, 2), (1, 2)]
  else:  # other patches are still all black against all white
    assert len(edges) == 3
  nearer = distances.pairs(
    images, threshold=float(np.nextafter(last, 0)), patch=patch
  )
  assert list(zip(nearer.i, nearer.j, strict=True)) == [(1, 2)]
  assert nearer.squared.tolist() == [1]


def bank_of(path, images, chunks=None):
  bank = store.create(path, shape=images.shape, dtype="uint8", chunk=10)
  for number in range(bank.chunks) if chunks is None else chunks:
    bank.write(number, images[bank.rows(number)])
  return bank


@pytest.mark.parametrize("two", [False, True])
def test_on_disk_from_stores(tiny, tmp_path, two):
  a, b = images_of(0, 37), images_of(1, 25)
  sets = [bank_of(tmp_path / "a", a)]
  sets += [bank_of(tmp_path / "b", b)] * two
  found = distances.write_pairs(tmp_path / "pairs", *sets, threshold=0.4)
  expected = naive(a, b if two else None, 0.4)
  assert found == dict(rows=37, columns=25 if two else 37, pairs=len(expected))
  assert_equal(distances.read_pairs(tmp_path / "pairs"), expected, 8)


def test_a_killed_join_goes_on_and_doubles_nothing(tiny, tmp_path, monkeypatch):
  monkeypatch.setattr(edges_module, "PART", 5)  # several files a strip
  images = images_of(0, 60)
  strip, made = blocks.Tiles.strip, []

  def stopping(self, start):
    made.append(start)
    for i, tile in enumerate(strip(self, start)):
      if len(made) == 3 and i == 1:
        raise KeyboardInterrupt
      yield tile

  monkeypatch.setattr(blocks.Tiles, "strip", stopping)
  with pytest.raises(KeyboardInterrupt):
    distances.write_pairs(tmp_path, images, threshold=0.5)
  with pytest.raises(FileNotFoundError, match="2 of 4 strips, from row 32 on"):
    distances.read_pairs(tmp_path)
  found = distances.write_pairs(tmp_path, images, threshold=0.5)
  assert made == [0, 16, 32, 32, 48]
  expected = naive(images, None, 0.5)
  assert found["pairs"] == len(expected)
  assert len(list(tmp_path.glob("*.part*"))) > 3
  assert_equal(distances.read_pairs(tmp_path), expected, 8)
  again = distances.write_pairs(tmp_path, images, threshold=0.5)
  assert again == found
  assert len(made) == 5


def test_strips_without_pairs_are_recorded(tiny, tmp_path):
  images = np.arange(40, dtype=np.uint8)[:, None]
  found = distances.write_pairs(tmp_path, images, threshold=0.0)
  assert found["pairs"] == len(distances.read_pairs(tmp_path)) == 0
  assert len(list(tmp_path.glob("rows_*.npz"))) == 3


def test_a_folder_of_another_join_is_refused(tmp_path):
  images = images_of(0, 5)
  distances.write_pairs(tmp_path, images, threshold=0.5)
  with pytest.raises(ValueError, match=r"threshold = 0\.5, this run"):
    distances.write_pairs(tmp_path, images, threshold=0.4)
  images = images.copy()
  images[0, 0, 0] ^= 1
  with pytest.raises(ValueError, match="its input 'a'"):
    distances.write_pairs(tmp_path, images, threshold=0.5)


def test_damaged_and_absent_pairs_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="run write_pairs first"):
    distances.read_pairs(tmp_path)
  distances.write_pairs(tmp_path, images_of(0, 5), threshold=0.5)
  piece = next(tmp_path.glob("rows_*.npz"))
  content = bytearray(piece.read_bytes())
  content[len(content) // 2] ^= 255
  piece.write_bytes(content)
  with pytest.raises(ValueError, match=f"{piece.name} is damaged") as error:
    distances.read_pairs(tmp_path)
  assert "\n" not in str(error.value)


IMAGES = np.zeros((3, 2, 2, 1), np.uint8)


@pytest.mark.parametrize(
  ("a", "b", "options", "message"),
  [
    (IMAGES / 255, None, {}, "a have dtype float64, expected uint8"),
    (IMAGES, IMAGES.astype(np.int8), {}, "b have dtype int8"),
    (IMAGES[:0], None, {}, "at least one image"),
    (IMAGES, IMAGES[:, :1], {}, r"\(2, 2, 1\) but b of \(1, 2, 1\)"),
    (IMAGES, None, dict(threshold=-0.1), "threshold = -0.1"),
    (IMAGES, None, dict(threshold=1.5), "threshold = 1.5, .* in .0, 1."),
    (IMAGES, None, dict(threshold=float("nan")), "threshold = nan"),
    (IMAGES, None, dict(patch=3), "sizes that do: 1, 2"),
  ],
)
def test_bad_input_is_refused(tmp_path, a, b, options, message):
  options = dict(threshold=0.5) | options
  for call in (
    lambda: inspect.unwrap(distances.pairs)(a, b, **options),
    lambda: distances.write_pairs(tmp_path / "pairs", a, b, **options),
  ):
    with pytest.raises(ValueError, match=message) as error:
      call()
    assert "\n" not in str(error.value)
  assert not (tmp_path / "pairs").exists()


def test_a_store_still_being_written_is_refused(tmp_path):
  bank = bank_of(tmp_path, images_of(0, 30), chunks=[0, 2])
  with pytest.raises(
    ValueError, match=r"a are not complete: .* is still being written"
  ):
    distances.pairs(bank, threshold=0.1)


@pytest.mark.slow
def test_real_photographs(optional_data):
  """Planted near-copies among 20,000 are found, and the rest as by floats."""
  with np.load(optional_data("cifar10_20k.npz")) as saved:
    images = saved["images"].copy()
  rng = np.random.default_rng(0)
  noise = rng.integers(-3, 4, images[:50].shape)
  images[-50:] = np.clip(images[:50] + noise, 0, 255).astype(np.uint8)
  edges = distances.pairs(images, threshold=0.02)
  planted = {(i, i + 19_950) for i in range(50)}
  assert planted <= set(zip(edges.i.tolist(), edges.j.tolist(), strict=True))
  some = rng.choice(20_000, 300, replace=False)
  expected = naive(images[np.sort(some)], None, 0.1)
  assert_equal(
    distances.pairs(images[np.sort(some)], threshold=0.1), expected, 3072
  )

# SPDX-License-Identifier: Apache-2.0
"""The patch distance equals its definition, whatever the blocks."""

import inspect

import hypothesis
import jax
import jax.export
import numpy as np
import pytest
from hypothesis import strategies as st

from diffmem import distances
from diffmem.distances import blocks, metrics, patches


def by_hand(a, b, patch):
  """Root mean squares of floats, one pair and one patch at a time."""
  a, b = a / 255, b / 255
  worst = np.zeros((len(a), len(b)))
  for i, x in enumerate(a):
    for j, y in enumerate(b):
      for top in range(0, x.shape[0], patch):
        for left in range(0, x.shape[1], patch):
          here = np.s_[top : top + patch, left : left + patch]
          rms = np.sqrt(np.mean((x[here] - y[here]) ** 2))
          worst[i, j] = max(worst[i, j], rms)
  return worst


def images_of(seed, n, levels, shape):
  """Images of few levels (many ties), of which one copies another."""
  rng = np.random.default_rng(seed)
  scale = 255 // (levels - 1)
  images = (rng.integers(0, levels, (n, *shape)) * scale).astype(np.uint8)
  images[-1] = images[0]
  return images


def test_definition_by_hand():
  a = images_of(0, 3, 256, (6, 4, 2))
  b = images_of(1, 2, 256, (6, 4, 2))
  squared = patches.squared(a, b, 2)
  assert squared.dtype == np.int64
  np.testing.assert_allclose(
    metrics.rms(squared, 8), by_hand(a, b, 2), rtol=1e-12
  )


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  levels=st.sampled_from([2, 256]),
  n=st.sampled_from([1, 7, 40]),
  piece=st.sampled_from([1, 600]),
  case=st.sampled_from([((4, 4, 1), 2), ((4, 6, 3), 2), ((4, 4, 1), 4)]),
)
def test_equals_definition_over_blocks(seed, levels, n, piece, case):
  shape, patch = case
  images = images_of(seed, n, levels, shape)
  with pytest.MonkeyPatch.context() as small:
    small.setattr(patches, "BLOCK_BYTES", 1)  # blocks of 16
    small.setattr(patches, "PIECE_BYTES", piece)  # of one or two positions
    small.setattr(blocks, "KEPT_BYTES", 1)  # none of them kept
    found = distances.patch_max(images, patch)
  d = patch * patch * shape[2]
  expected = metrics.rms(patches.squared(images, images, patch), d)
  np.testing.assert_array_equal(found, expected)
  assert found.dtype == np.float64
  np.testing.assert_array_equal(found, found.T)
  assert not np.diag(found).any()
  assert found[0, -1] == 0  # the copy


@pytest.mark.parametrize(("n", "m"), [(3, 20), (20, 3)])
def test_images_against_references(n, m):
  a, b = images_of(2, n, 256, (4, 4, 3)), images_of(3, m, 3, (4, 4, 3))
  found = distances.patch_max(a, 2, references=b)
  expected = metrics.rms(patches.squared(a, b, 2), 12)
  np.testing.assert_array_equal(found, expected)


def test_one_patch_is_the_plain_distance():
  images = images_of(4, 5, 256, (4, 4, 3))
  plain = metrics.rms(metrics.squared(images, images), 48)
  np.testing.assert_array_equal(distances.patch_max(images, 4), plain)


def test_a_flat_background_does_not_hide_the_subject():
  images = np.full((2, 8, 8, 1), 200, np.uint8)
  images[1, :4, :4] = 0
  assert distances.patch_max(images, 4)[0, 1] == pytest.approx(200 / 255)
  assert distances.patch_max(images, 8)[0, 1] == pytest.approx(100 / 255)


@pytest.mark.parametrize(
  "patch",
  [
    128,  # 49,152 values: more than int32 holds
    256,  # 196,608: more than uint32 holds, so two limbs of four parts
  ],
)
def test_black_against_white(patch):
  images = np.zeros((4, patch, 2 * patch, 3), np.uint8)
  images[1, :, patch:] = 255
  images[2, :, :patch] = 254
  images[3] = 255
  images[3, -1, -1, -1] = 254
  d = patch * patch * 3
  squared = patches.squared(images, images, patch)
  assert squared[0, 1] == 255**2 * d
  found = distances.patch_max(images, patch)
  np.testing.assert_array_equal(found, metrics.rms(squared, d))
  assert found[0, 1] == found[0, 3] == 1


@pytest.mark.parametrize(("parts", "piece"), [(2, 1), (3, 1 << 25)])
def test_limbs_at_their_edges(monkeypatch, parts, piece):
  """Carries between limbs, and ties of the high one, in small patches."""
  monkeypatch.setattr(patches, "PIECE_BYTES", piece)
  monkeypatch.setattr(patches, "UINT32_DIMS", -(-48 // parts))
  patches._worst.clear_cache()
  patches._norms.clear_cache()
  images = images_of(5, 20, 3, (8, 8, 3))
  found = distances.patch_max(images, 4)
  patches._worst.clear_cache()
  patches._norms.clear_cache()
  expected = metrics.rms(patches.squared(images, images, 4), 48)
  np.testing.assert_array_equal(found, expected)


def test_memory_is_not_used_again_too_early(monkeypatch):
  """Many pieces under way, on one device straight from the host's memory."""
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  monkeypatch.setattr(patches, "PIECE_BYTES", 1)
  a, b = images_of(7, 120, 256, (64, 64, 3)), images_of(8, 70, 256, (64, 64, 3))
  a[:, :, :32], b[:, :, :32] = 0, 255  # the worst patch is not the last
  monkeypatch.setattr(patches, "BLOCK_BYTES", 64 * 64 * 3 * 48)
  some = np.array([0, 17, 50, 119])
  found = distances.patch_max(a, 32, references=b)
  expected = metrics.rms(patches.squared(a[some], b, 32), 3072)
  np.testing.assert_array_equal(found[some], expected)
  found = distances.patch_max(a, 16)
  expected = metrics.rms(patches.squared(a[some], a, 16), 768)
  np.testing.assert_array_equal(found[some], expected)


@pytest.mark.parametrize("same", [False, True])
def test_lowers_for_tpu(same):
  x = jax.ShapeDtypeStruct((2, 16, 48), np.int8)
  norms = None if same else jax.ShapeDtypeStruct((1, 2, 16), np.int32)
  exported = jax.export.export(patches._worst, platforms=["tpu"])(
    None, x, norms, x, norms, form="int8"
  )
  assert exported.platforms == ("tpu",)


IMAGES = np.zeros((3, 6, 4, 1), np.uint8)


@pytest.mark.parametrize(
  ("images", "patch", "references", "message"),
  [
    (IMAGES, 3, None, "3 x 3 .* images of 6 x 4; sizes that do: 1, 2$"),
    (IMAGES, 128, None, "sizes that do: 1, 2$"),
    (IMAGES, 0, None, "sizes that do: 1, 2$"),
    (IMAGES / 255, 2, None, "a have dtype float64, expected uint8"),
    (IMAGES[:0], 2, None, "at least one image"),
    (IMAGES, 2, IMAGES[:, :4], "expected one shape"),
    (IMAGES, 2, IMAGES.astype(np.int8), "b have dtype int8"),
    (IMAGES[..., 0], 2, None, r"expected \[h w c\]"),
  ],
)
def test_bad_input_is_refused(images, patch, references, message):
  with pytest.raises(ValueError, match=message) as error:
    inspect.unwrap(distances.patch_max)(images, patch, references=references)
  assert "\n" not in str(error.value)

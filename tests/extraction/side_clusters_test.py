# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from diffmem.extraction import side_clusters


def groups(sizes, spread, d=16, seed=0):
  """Unit directions, with noise of each group's own spread."""
  rng = np.random.default_rng(seed)
  means = np.linalg.qr(rng.normal(size=(d, d)))[0][: len(sizes)]
  parts = [
    rng.uniform(1, 9, (n, 1)) * (m + s * rng.normal(size=(n, d)) / np.sqrt(d))
    for n, m, s in zip(sizes, means, spread, strict=True)
  ]
  return np.concatenate(parts).astype(np.float32)


def options(**change):
  kept = dict(clusters=3, restarts=3, cohesion=0.5, least=5, seed=0)
  return dict(kept, centre=False) | change


def test_finds_directions_whatever_the_lengths():
  z = groups((40, 30, 20), (0.1, 0.2, 0.3))
  found = side_clusters.cluster(z, **options())
  assert len(found) == 3
  np.testing.assert_array_equal(sorted(found.sizes), [20, 30, 40])
  for start, stop in ((0, 40), (40, 70), (70, 90)):
    assert len(set(found.labels[start:stop])) == 1
  assert list(found.cohesion) == sorted(found.cohesion)[::-1]


def test_cohesion_is_the_mean_cosine_to_the_centre():
  z = groups((40, 30, 20), (0.2, 0.5, 0.9))
  found = side_clusters.cluster(z, **options(cohesion=-1.0, least=1))
  for k in range(3):
    own = z[found.labels == k].astype(np.float64)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    mean = own.sum(axis=0) / np.linalg.norm(own.sum(axis=0))
    np.testing.assert_allclose(found.centres[k], mean, atol=1e-9)
    np.testing.assert_allclose(found.cohesion[k], (own @ mean).mean())
    np.testing.assert_allclose(found.closeness[found.labels == k], own @ mean)


def test_images_of_dropped_clusters_go_to_the_nearest_that_is_left():
  z = groups((40, 30, 20), (0.1, 0.1, 2.0))
  found = side_clusters.cluster(z, **options(cohesion=0.8))
  assert len(found) == 2
  assert len(found.labels) == 90
  assert set(found.labels) == {0, 1}
  assert found.dropped_sizes.sum() == 90 - found.sizes.sum()
  assert found.dropped_cohesion.max() < 0.8 <= found.cohesion.min()


def test_no_spherical_move_improves_the_result():
  """A fixed point: everybody is nearest to its own centre."""
  z = side_clusters.unit(
    np.random.default_rng(3).normal(size=(200, 8)), centre=True
  )
  centres, labels = side_clusters.spherical(z, clusters=7, restarts=1, seed=0)
  np.testing.assert_array_equal(np.argmax(z @ centres.T, axis=1), labels)
  np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1.0)


def test_centring_takes_away_what_all_share():
  z = groups((40, 30), (0.3, 0.3)) + 100.0
  shared = side_clusters.cluster(z, **options(clusters=2, cohesion=-1.0))
  apart = side_clusters.cluster(
    z, **options(clusters=2, cohesion=-1.0, centre=True)
  )
  assert shared.cohesion.min() > 0.99
  assert apart.cohesion.max() < 0.95


def test_copies_of_few_images_make_few_clusters():
  z = np.repeat(groups((1, 1, 1), (0.1,) * 3), 10, axis=0)
  found = side_clusters.cluster(z, **options(clusters=8))
  assert len(found) == 3
  np.testing.assert_allclose(found.cohesion, 1.0)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(clusters=91), "side.clusters = 91, but there are 90 synthetic"),
    (dict(clusters=1), "expected 2 or more clusters"),
    (dict(cohesion=1.0), "of 3 clusters, with cohesion from .* none is left"),
    (dict(least=35), "one alone is left"),
  ],
)
def test_errors(change, message):
  z = groups((40, 30, 20), (0.1, 0.2, 0.3))
  with pytest.raises(ValueError, match=message):
    side_clusters.cluster(z, **options(**change))

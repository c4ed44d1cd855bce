# SPDX-License-Identifier: Apache-2.0
"""Easiest and hardest images, how isolated they are, and extraction."""

import numpy as np
import pytest
import scipy.stats

from diffmem.distances import metrics
from diffmem.membership import images, joined


def test_means_of_each_side():
  scores = np.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
  inside = np.array([[True, False, True], [True, False, False]])
  report = np.array([True, True, True])
  member, other = images.sided(scores, inside, report)
  np.testing.assert_array_equal(member, [3.0, np.nan, 3.0])
  np.testing.assert_array_equal(other, [np.nan, 4.0, 7.0])
  member, other = images.sided(scores, inside, ~report)
  assert np.isnan([member, other]).all()


def test_extremes_are_ranked_and_never_of_the_wrong_side():
  member = np.array([0.3, np.nan, 0.9, 0.1, np.nan])
  other = np.array([np.nan, 0.5, np.nan, np.nan, 0.7])
  found = images.extremes(member, other, 2)
  assert found["members_found"].tolist() == [2, 0]
  assert found["members_missed"].tolist() == [3, 0]
  assert found["non_members_flagged"].tolist() == [4, 1]
  assert found["non_members_cleared"].tolist() == [1, 4]


def test_isolation_equals_its_definition():
  pixels = np.random.default_rng(0).integers(0, 256, (30, 3, 3, 1), np.uint8)
  pixels[5] = pixels[6] = pixels[7]  # copies are neighbours of each other
  mean, first = images.isolation(pixels, 4)
  flat = pixels.reshape(30, -1)
  every = np.array(metrics.rms(metrics.squared(flat, flat), 9))
  every[np.arange(30), np.arange(30)] = np.inf
  nearest = np.sort(every, axis=1)[:, :4]
  np.testing.assert_allclose(mean, nearest.mean(1), atol=1e-12)
  np.testing.assert_allclose(first, nearest[:, 0], atol=1e-12)
  assert first[5] == first[6] == first[7] == 0


def test_more_copies_than_neighbours():
  pixels = np.zeros((6, 2, 2, 1), np.uint8)
  mean, first = images.isolation(pixels, 2)
  np.testing.assert_array_equal(mean, np.zeros(6))
  np.testing.assert_array_equal(first, np.zeros(6))


def test_correlation_is_of_ranks():
  rng = np.random.default_rng(1)
  a = rng.normal(size=50)
  b = np.exp(3 * a)
  b[:3] = np.nan
  found = images.correlation(a, b)
  assert found["rho"] == pytest.approx(1)
  assert found["images"] == 47
  noise = rng.normal(size=50)
  rho, p = scipy.stats.spearmanr(a, noise)
  assert images.correlation(a, noise) == {"rho": rho, "p": p, "images": 50}
  assert images.correlation(a, np.ones(50)) is None
  assert images.correlation(a[:2], b[:2]) is None


def test_a_pool_too_large_is_not_searched():
  pixels = np.random.default_rng(2).integers(0, 256, (12, 2, 2, 1), np.uint8)
  member = np.where(np.arange(12) < 6, np.arange(12.0), np.nan)
  other = np.where(np.arange(12) < 6, np.nan, np.arange(12.0))
  options = {"count": 2, "neighbours": 3}
  ids, copies = np.arange(12) * 10, np.ones(12, int)
  given = ("loss", member, other, ids, copies, pixels)
  numbers, gallery = images.describe(*given, **options, most=100)
  assert numbers["groups"]["members_found"]["ids"].tolist() == [50, 40]
  assert numbers["isolation"]["members"]["images"] == 6
  assert gallery["non_members_cleared_images"].shape == (2, 2, 2, 1)
  numbers, _ = images.describe(*given, **options, most=11)
  assert numbers["groups"]["members_found"]["isolation"] is None
  assert numbers["isolation"]["members"] is None
  assert "a pool of 12 images" in numbers["isolation"]["skipped"]


def test_extracted_members_among_members():
  scores = np.arange(100.0)
  copies = np.where(np.arange(100) >= 95, 9, 1)
  found = np.arange(100) >= 90
  got = joined.join(scores, found, copies, bootstrap=50, seed=0)
  assert (got["extracted"], got["members"]) == (10, 100)
  assert got["auc"][0] == 1
  assert got["top"] == {"0.01": [1, 1], "0.1": [10, 10]}
  assert got["once"]["extracted"] == 5
  assert got["once"]["top"]["0.1"] == [5, 10]
  few = joined.join(scores, found & (copies == 1), copies, bootstrap=50, seed=0)
  assert few["auc"] is not None
  one = joined.join(scores, scores == 7, copies, bootstrap=50, seed=0)
  assert one["auc"] is None  # one image says nothing of others
  assert one["top"]["0.1"] == [0, 10]
  none = joined.join(scores, scores < 0, copies, bootstrap=50, seed=0)
  assert (none["extracted"], none["auc"]) == (0, None)


def test_matches_of_an_unfinished_stage_do_not_count(tmp_path):
  assert joined.extracted(tmp_path) is None
  folder = tmp_path / "extraction"
  folder.mkdir()
  (folder / "matches.csv").write_text("training_id,x\n7,1\n3,1\n7,2\n")
  np.testing.assert_array_equal(joined.extracted(tmp_path), [3, 7])
  (folder / "meta.json").write_text('{"status": "started"}')
  assert joined.extracted(tmp_path) is None

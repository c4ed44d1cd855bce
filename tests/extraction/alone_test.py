# SPDX-License-Identifier: Apache-2.0
"""Without held-out images: the rate is kept, copies are found."""

import numpy as np
import pytest
from sklearn import datasets

from diffmem import distances
from diffmem.extraction import alone, rule
from diffmem.extraction.rule import Searched

N = 20


@pytest.fixture(scope="module")
def digits():
  pixels = np.round(datasets.load_digits().data * (255 / 16)).astype(np.uint8)
  return np.unique(pixels, axis=0).reshape(-1, 8, 8, 1)


def audit(training, generations, copies=None, **options):
  found = distances.nearest(generations, training, N)
  itself = distances.nearest(training, training, N + 1)
  d = training[0].size
  members = Searched(
    np.arange(len(training)),
    rule.read_nearest(found.ids, found.squared, d=d, neighbours=N),
    rule.centre_means(itself.ids, itself.squared, d=d, neighbours=N),
  )
  real = rule.leave_one_out(itself.ids, itself.squared, d=d, neighbours=N)
  settings = dict(
    alpha=0.5,
    neighbours=N,
    centring="generation",
    false_match_rate=0.01,
    seed=0,
  )
  if copies is None:
    copies = np.ones(len(training), np.int64)
  return alone.extract(members, real, copies=copies, **settings | options)


def test_leave_one_out_against_a_loop(digits):
  few = np.concatenate([digits[:40], digits[:2]])  # two have duplicates
  found = distances.nearest(few, few, 12)
  real = rule.leave_one_out(found.ids, found.squared, d=64, neighbours=11)
  for i, image in enumerate(few):
    others = np.delete(np.arange(len(few)), i)
    apart = np.sqrt(
      np.mean((few[others] / 255.0 - image / 255.0) ** 2, axis=(1, 2, 3))
    )
    nearest = np.sort(apart)[:11]
    np.testing.assert_allclose(real.distances[i], nearest[0], atol=1e-12)
    np.testing.assert_allclose(real.means[i], nearest.mean(), atol=1e-12)
    assert real.rows[i] in others[apart <= nearest[0] + 1e-12]


def test_honest_images_match_at_the_stated_rate(digits):
  """Fresh images of the same kind, over splits: no more than was said."""
  matched, generated = 0, 0
  for seed in range(6):
    order = np.random.default_rng(seed).permutation(len(digits))
    found = audit(digits[order[:900]], digits[order[900:]]).results
    matched += found["control"]["generations"]
    generated += found["generated"]
    assert found["control"]["p_value"] > 1e-4
    assert found["control"]["real_matches"] <= 0.011 * 900
  assert 0.003 < matched / generated < 0.02  # 0.01 was asked for


def test_copies_are_found(digits):
  training, fresh = digits[:900], digits[900:1700]
  noisy = training[:30].copy()
  noisy[noisy > 8] -= 3
  copies = np.ones(900, np.int64)
  copies[:30] = 5
  found = audit(
    training, np.concatenate([fresh, noisy]), copies, false_match_rate=0.002
  )
  results = found.results
  assert set(range(30)) <= set(found.matches.rows.tolist())
  assert results["planted"]["5"] == [30, 30]
  assert results["control"]["p_value"] < 1e-6
  assert results["control"]["expected"][0] == pytest.approx(830 * 0.002)
  assert results["held_out"]["searched"] == 0
  assert len(found.false_matches) == 0
  assert results["rule"]["calibrated_on"] == "leave one out"


def test_nothing_matches_in_noise(digits):
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
  results = audit(digits[:900], noise).results
  assert results["unique"] == 0
  assert results["control"]["p_value"] == 1.0


def test_the_other_centring_is_refused(digits):
  with pytest.raises(ValueError, match="'training' needs held-out images"):
    audit(digits[:60], digits[60:90], centring="training")

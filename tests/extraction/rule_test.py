# SPDX-License-Identifier: Apache-2.0
"""The rule against a naive transcription, and where other rules go blind."""

import numpy as np
import pytest

from diffmem import distances, stats
from diffmem.extraction import rule
from diffmem.extraction.rule import Nearest, Rule, Searched


def images(seed, n, levels=256):
  rng = np.random.default_rng(seed)
  return rng.integers(0, levels, (n, 3, 3, 1), dtype=np.uint8)


def searched(generations, references, neighbours):
  found = distances.nearest(generations, references, neighbours)
  own = distances.nearest(references, references, neighbours + 1)
  d = references[0].size
  return Searched(
    np.arange(len(references)),
    rule.read_nearest(found.ids, found.squared, d=d, neighbours=neighbours),
    rule.centre_means(own.ids, own.squared, d=d, neighbours=neighbours),
  )


def rms(a, b):
  return float(np.sqrt(np.mean((a / 255.0 - b / 255.0) ** 2)))


def naive(generation, references, alpha, n, centring):
  """(row of the nearest, distance, ratio), as in the paper's section 5.1."""
  found = [rms(generation, reference) for reference in references]
  row = int(np.argmin(found))
  if centring == "generation":
    neighbourhood = sorted(found)[:n]
  else:
    others = np.delete(references, row, axis=0)
    neighbourhood = sorted(rms(references[row], other) for other in others)[:n]
  return row, found[row], found[row] / (alpha * np.mean(neighbourhood))


@pytest.mark.parametrize("centring", rule.CENTRINGS)
@pytest.mark.parametrize(("alpha", "n"), [(0.5, 4), (0.9, 1), (0.7, 11)])
def test_equals_the_naive_rule(centring, alpha, n):
  references, generations = images(0, 12), images(1, 20)
  generations[:6] = np.clip(references[3:9] + images(2, 6, 20), 0, 255)
  got = searched(generations, references, n)
  ratios = rule.ratios(got.nearest, got.centres, alpha=alpha, centring=centring)
  passed = rule.passes(got.nearest, got.centres, Rule(0.15, alpha, n, centring))
  for i, generation in enumerate(generations):
    row, distance, ratio = naive(generation, references, alpha, n, centring)
    assert got.nearest.rows[i] == row
    np.testing.assert_allclose(got.nearest.distances[i], distance, rtol=1e-12)
    np.testing.assert_allclose(ratios[i], ratio, rtol=1e-12)
    assert passed[i] == (distance <= 0.15 and ratio <= 1)
  assert 0 < passed.sum() < len(generations) or n == 1


@pytest.mark.parametrize("centring", rule.CENTRINGS)
def test_duplicates_in_training_do_not_blind_the_rule(centring):
  """A test of d1 / d2 calls the copy of a duplicated image new."""
  references = images(0, 30)
  references[1:4] = references[0]
  references[3, 0, 0, 0] ^= 1
  generation = references[:1].copy()
  generation[0, 2, 2, 0] ^= 3
  got = searched(generation, references, 20)
  both = distances.nearest(generation, references, 2).distances[0]
  assert both[0] / both[1] == 1
  assert got.nearest.rows[0] == 0
  assert rule.passes(got.nearest, got.centres, Rule(0.05, 0.5, 20, centring))


def test_an_exact_copy_passes_even_among_copies_only():
  references = np.repeat(images(0, 1), 5, axis=0)
  got = searched(references[:1], references, 3)
  for centring in rule.CENTRINGS:
    ratios = rule.ratios(got.nearest, got.centres, alpha=0.5, centring=centring)
    np.testing.assert_array_equal(ratios, [0])
  near = references[:1] ^ 1
  got = searched(near, references, 3)
  ratios = rule.ratios(got.nearest, got.centres, alpha=0.5, centring="training")
  np.testing.assert_array_equal(ratios, [np.inf])


def test_own_row_is_left_out_behind_many_duplicates():
  references = np.repeat(images(0, 1), 6, axis=0)
  own = distances.nearest(references, references, 3)  # rows 0, 1, 2 always
  means = rule.centre_means(own.ids, own.squared, d=9, neighbours=2)
  np.testing.assert_array_equal(means, np.zeros(6))


def test_flat_images_pass_the_distance_and_not_the_ratio():
  levels = np.arange(100, 140, dtype=np.uint8)
  flat = np.broadcast_to(levels[:, None, None, None], (40, 3, 3, 1)).copy()
  generation = flat[20:21] + np.uint8(1)
  generation[0, 0, 0, 0] += 1
  got = searched(generation, np.delete(flat, 21, axis=0), 5)
  assert got.nearest.distances[0] < 0.01
  loose = Rule(0.01, 0.5, 5, "generation")
  assert not rule.passes(got.nearest, got.centres, loose)[0]


def test_blocks_do_not_matter():
  found = distances.nearest(images(1, 20), images(0, 12), 5)
  whole = rule.read_nearest(found.ids, found.squared, d=9, neighbours=4)
  parts = rule.read_nearest(
    found.ids, found.squared, d=9, neighbours=4, block=7
  )
  for name in ("rows", "distances", "means"):
    np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_calibration_on_known_numbers():
  """Of 100 ids, the i-th is nearest to two generations.

  The closer one is at (i + 1) / 1000; one that is closer still fails the ratio.
  """
  m = 100
  close = (np.arange(m) + 1) / 1000
  nearest = Nearest(
    rows=np.concatenate([np.arange(m), np.arange(m), [50]]),
    distances=np.concatenate([close, close + 0.5, [1e-4]]),
    means=np.concatenate([np.full(2 * m, 2.0), [1.5e-4]]),
  )
  calibration = Searched(np.arange(m), nearest, np.ones(m))
  options = {"alpha": 0.5, "centring": "generation"}
  best = rule.best_distances(calibration, **options)
  np.testing.assert_array_equal(best, close)
  made, found = rule.calibrate(
    calibration, **options, neighbours=3, false_match_rate=0.05, seed=0
  )
  assert made == Rule(found.delta, 0.5, 3, "generation")
  assert found == stats.calibrate(close, 0.05, 0, cap=0.5)
  assert np.sum(close <= made.delta) == 5  # 5% of 100 ids


def test_without_evidence_delta_is_a_share_of_the_usual_distance():
  """No generation passes the ratio: delta is not left at 1."""
  nearest = Nearest(np.arange(9), np.full(9, 0.3), np.full(9, 0.35))
  centres = np.linspace(0.1, 0.5, 9)
  made, found = rule.calibrate(
    Searched(np.arange(9), nearest, centres),
    alpha=0.5,
    neighbours=3,
    centring="generation",
    false_match_rate=0.01,
    seed=0,
  )
  assert found.method == "cap"
  np.testing.assert_allclose(made.delta, 0.5 * 0.3)


def test_ids_that_are_nearest_to_nothing_have_no_distance():
  nearest = Nearest(np.array([1]), np.array([0.1]), np.array([0.9]))
  best = rule.best_distances(
    Searched(np.arange(3), nearest, np.ones(3)),
    alpha=0.5,
    centring="generation",
  )
  np.testing.assert_array_equal(best, [np.inf, 0.1, np.inf])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"alpha": 0.0}, "alpha = 0.0, expected a positive"),
    ({"neighbours": 0}, "neighbours = 0, expected at least 1"),
    ({"centring": "image"}, "centring = 'image', expected one of generation"),
    ({"delta": 1.5}, "delta = 1.5, expected an RMS in 0..1"),
    ({"delta": float("nan")}, "delta = nan"),
  ],
)
def test_options_that_make_no_rule(change, message):
  options = {"delta": 0.1, "alpha": 0.5, "neighbours": 5} | change
  with pytest.raises(ValueError, match=message):
    Rule(**options)


def test_too_few_neighbours_on_disk():
  found = distances.nearest(images(1, 4), images(0, 12), 3)
  with pytest.raises(ValueError, match=r"kept 3 neighbours.* needs 4"):
    rule.read_nearest(found.ids, found.squared, d=9, neighbours=4)
  with pytest.raises(ValueError, match=r"kept 3 neighbours.* needs 4"):
    rule.centre_means(found.ids[:, :3], found.squared, d=9, neighbours=3)

# SPDX-License-Identifier: Apache-2.0
"""What is counted: distinct ids, beside a control by the same code."""

import collections

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn import datasets

from diffmem import distances
from diffmem.extraction import attack, rule
from diffmem.extraction.rule import Nearest, Rule, Searched

LOOSE = Rule(0.1, 0.5, 3, "generation")


def searched(generations, references, ids, neighbours=20):
  found = distances.nearest(generations, references, neighbours)
  own = distances.nearest(references, references, neighbours + 1)
  d = references[0].size
  return Searched(
    ids,
    rule.read_nearest(found.ids, found.squared, d=d, neighbours=neighbours),
    rule.centre_means(own.ids, own.squared, d=d, neighbours=neighbours),
  )


def by_hand(rows, distances, means=None):
  rows = np.asarray(rows)
  means = np.ones(len(rows)) if means is None else np.asarray(means)
  nearest = Nearest(rows, np.asarray(distances), means)
  return Searched(np.arange(10) * 2, nearest, np.ones(10))


@pytest.fixture(scope="module")
def digits():
  pixels = datasets.load_digits().images
  images = np.round(pixels * 255 / 16).astype(np.uint8)[..., None]
  order = np.random.default_rng(0).permutation(len(images))
  return {
    name: (ids, images[ids])
    for name, ids in (
      ("members", np.sort(order[:300])),
      ("held_out", np.sort(order[300:600])),
      ("calibration", np.sort(order[600:900])),
      ("other", np.sort(order[900:1500])),
    )
  }


def audit(digits, generations, centring="generation", **kw):
  sets = {
    name: searched(generations, digits[name][1], digits[name][0])
    for name in ("members", "held_out", "calibration")
  }
  copies = np.ones(300, np.int64)
  copies[:5] = 20
  real = searched(digits["held_out"][1], digits["members"][1], copies)
  options = {
    "copies": copies,
    "alpha": 0.5,
    "neighbours": 20,
    "centring": centring,
    "false_match_rate": 0.01,
    "seed": 0,
  }
  return attack.extract(
    sets["members"],
    sets["held_out"],
    sets["calibration"],
    real.nearest,
    **options | kw,
  )


@pytest.mark.parametrize("centring", rule.CENTRINGS)
def test_a_bank_of_copies_is_found_whole_and_no_held_out_image(
  digits, centring
):
  members = digits["members"][1]
  generations = np.concatenate([digits["other"][1], members[::-1]])
  found = audit(digits, generations, centring)
  results = found.results
  assert results["unique"] == 300
  assert results["planted"] == {"20": [5, 5], "1": [295, 295]}
  assert results["held_out"]["unique"] <= 6  # at a stated rate of 1%
  assert len(found.near_misses) == 0
  np.testing.assert_array_equal(found.matches.distances, np.zeros(300))
  np.testing.assert_array_equal(
    found.matches.generations, 600 + 299 - found.matches.rows
  )
  assert results["unique_interval"][1] == 1


@pytest.mark.parametrize("centring", rule.CENTRINGS)
def test_real_images_that_nobody_trained_on_are_few_matches(digits, centring):
  results = audit(digits, digits["other"][1], centring).results
  expected = results["rule"]["calibration"]["expected_held_out"]
  assert results["unique"] <= 2 * expected[2] + 3
  assert results["held_out"]["unique"] <= 2 * expected[2] + 3
  assert results["held_out"]["real_matches"] <= 12
  assert results["held_out"]["real_searched"] == 300


def test_results_hold_what_the_report_reads(digits):
  generations = np.concatenate(
    [digits["other"][1], np.repeat(digits["members"][1][:7], 2, axis=0)]
  )
  found = audit(digits, generations)
  results = found.results
  unique, total = results["unique"], results["generated"]
  assert total == 614
  assert unique >= 7
  test = scipy_stats.binomtest(unique, 300)
  np.testing.assert_allclose(
    results["unique_interval"], test.proportion_ci(method="exact")
  )
  curve = results["yield"]
  assert curve["generated"][0] == 1
  assert curve["generated"][-1] == total
  np.testing.assert_allclose(curve["members"][-1], unique)
  np.testing.assert_allclose(
    curve["members"][0], found.matches.hits.sum() / total
  )
  assert np.all(np.diff(curve["members"]) >= 0)
  np.testing.assert_allclose(
    curve["held_out"][-1], results["held_out"]["unique"]
  )
  histogram = results["histogram"]
  assert len(histogram["edges"]) == len(histogram["members"]) + 1
  assert sum(histogram["members"]) == sum(histogram["held_out"]) == total
  assert results["other_centring"]["name"] == "training"
  other = audit(digits, generations, "training")
  assert results["other_centring"]["unique"] == other.results["unique"]
  assert results["other_centring"]["delta"] == other.rule.delta
  assert (
    results["other_centring"]["held_out_unique"]
    == other.results["held_out"]["unique"]
  )
  lo, hi = results["rule"]["delta_interval"]
  assert lo <= results["rule"]["delta"] <= hi
  assert results["control"] == {
    "searched": 300,
    "members": unique,
    "held_out": results["held_out"]["unique"],
    "closer": int(
      np.sum(found.matches.distances < found.false_matches.distances.min())
    ),
  }


def test_matches_against_a_loop(digits):
  """Distinct ids with their best generation and number of hits, naively."""
  rng = np.random.default_rng(0)
  rows = rng.integers(0, 10, 200)
  distances = rng.integers(0, 8, 200) / 40  # many ties
  means = rng.uniform(0.05, 0.6, 200)
  got = attack.matches(by_hand(rows, distances, means), LOOSE)
  kept = collections.defaultdict(list)
  for generation in range(200):
    ratio = distances[generation] / (0.5 * means[generation])
    if distances[generation] <= 0.1 and ratio <= 1:
      kept[rows[generation]].append((distances[generation], generation, ratio))
  expected = sorted(
    (min(found)[0], row, min(found)[1], min(found)[2], len(found))
    for row, found in kept.items()
  )
  assert len(got) == len(expected) > 5
  np.testing.assert_array_equal(
    np.stack([got.distances, got.rows, got.generations, got.ratios, got.hits]),
    np.array(expected).T,
  )


def test_one_image_found_twice_counts_once():
  got = attack.matches(by_hand([3, 3, 7], [0.02, 0.01, 0.05]), LOOSE)
  np.testing.assert_array_equal(got.rows, [3, 7])
  np.testing.assert_array_equal(got.generations, [1, 2])
  np.testing.assert_array_equal(got.hits, [2, 1])


def test_generations_that_tie_go_to_the_earlier():
  got = attack.matches(by_hand([3, 3, 1, 1], [0.02] * 4), LOOSE)
  np.testing.assert_array_equal(got.rows, [1, 3])
  np.testing.assert_array_equal(got.generations, [2, 0])


def test_near_misses_are_the_nearest_that_no_generation_matches():
  near = by_hand([3, 3, 7, 8, 8, 9], [0.02, 0.3, 0.2, 0.4, 0.15, 0.12])
  got = attack.near_misses(near, LOOSE, 2)
  np.testing.assert_array_equal(got.rows, [9, 8])
  np.testing.assert_array_equal(got.generations, [5, 4])
  np.testing.assert_array_equal(got.hits, [1, 2])
  assert len(attack.near_misses(near, LOOSE, 0)) == 0


def test_nothing_found():
  got = attack.matches(by_hand([3], [0.5]), LOOSE)
  assert len(got) == 0
  assert attack.planted(got, np.array([5, 1, 1])) == {"5": [0, 1], "1": [0, 2]}
  curve = attack.yield_curve(got, got, 100)
  assert set(curve["members"]) == {0.0}


def test_unequal_sets_are_compared_at_equal_size(digits):
  members, held_out = digits["members"], digits["held_out"]
  generations = np.concatenate([digits["other"][1], members[1][:40]])
  small = searched(generations, held_out[1][:100], held_out[0][:100])
  rows = np.arange(0, 300, 3)
  control = searched(generations, members[1][rows], members[0][rows])
  copies = np.ones(300, np.int64)
  found = attack.extract(
    searched(generations, *members[::-1]),
    small,
    searched(generations, *digits["calibration"][::-1]),
    searched(held_out[1][:100], members[1], copies).nearest,
    copies=copies,
    alpha=0.5,
    neighbours=20,
    centring="generation",
    false_match_rate=0.01,
    seed=0,
    control_members=control,
  ).results
  assert found["searched"] == 300
  assert found["unique"] >= 40
  assert found["control"]["searched"] == found["held_out"]["searched"] == 100
  assert 14 <= found["control"]["members"] < found["unique"]

# SPDX-License-Identifier: Apache-2.0
"""The attack on arrays: tightest cliques, flat images, the edge."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from diffmem.distances import metrics, patches
from diffmem.extraction import prompt_edge, prompts, prompts_training
from diffmem.extraction import tightest as search

OPTIONS = dict(prompt=3, minimum=4, patch=None, cap=0.2, flat=0.02)
ROOMY = 10**9


def noisy(rng, base, count, sigma):
  """Copies of a picture with noise, in grey levels."""
  made = base[None] + rng.normal(0, sigma, (count, *base.shape))
  return np.clip(np.round(made), 0, 255).astype(np.uint8)


def picture(rng, shape=(8, 8, 1)):
  return rng.integers(0, 256, shape).astype(np.uint8)


def brute(between, minimum):
  """The smallest diameter of any `minimum` of the images."""
  return min(
    max(between[i, j] for i, j in itertools.combinations(some, 2))
    for some in itertools.combinations(range(len(between)), minimum)
  )


@pytest.mark.parametrize("seed", range(12))
def test_tightest_is_the_smallest_diameter(seed):
  rng = np.random.default_rng(seed)
  points = rng.normal(size=(11, 1 + seed % 3))
  if seed % 2:
    points = np.round(points)  # ties and copies
  between = np.abs(points[:, None] - points[None]).max(axis=-1)
  for minimum in (2, 3, 5, 11):
    got = search.tightest(between, minimum, budget=ROOMY)
    assert got == (brute(between, minimum), True)
  assert search.tightest(between, 12) == (math.inf, True)


def test_flagged_is_tightest_within_the_edge():
  rng = np.random.default_rng(0)
  images = np.concatenate(
    [
      noisy(rng, picture(rng), 7, 9),
      rng.integers(0, 256, (9, 8, 8, 1), "uint8"),
    ]
  )
  measured = prompts.measure(images, 100 + np.arange(16), **OPTIONS)
  assert measured.proven
  for edge in (measured.tightest - 1e-9, measured.tightest):
    got = prompts.test(measured, edge=edge, minimum=4, budget=ROOMY)
    assert got.flagged == (edge >= measured.tightest)
    assert not got.undecided
  best = prompts.test(measured, edge=0.1, minimum=4, budget=ROOMY).answer
  assert best.clique.ids.tolist() == list(range(100, 107))
  assert best.exact
  squared = metrics.squared(images, images)
  between = metrics.rms(squared, 64)[:7, :7]
  assert best.clique.medoid == 100 + between.sum(axis=1).argmin()
  assert best.clique.mean == pytest.approx(
    between[np.triu_indices(7, 1)].mean()
  )
  assert measured.histogram.sum() == 16 * 15 / 2


def test_a_budget_that_ends_bounds_from_above():
  rng = np.random.default_rng(1)
  between = prompts.matrix(noisy(rng, picture(rng), 60, 20), None)
  exact, proven = search.tightest(between, 6, budget=ROOMY)
  short, sure = search.tightest(between, 6, budget=1)
  assert proven
  assert not sure
  assert short >= exact
  nodes, _ = search.holds(between - np.eye(60), short, 6, ROOMY)
  assert nodes is not None


def hard(seed=0, nodes=60, share=0.9):
  """A graph whose largest clique takes long to prove."""
  rng = np.random.default_rng(seed)
  pairs = np.array(list(itertools.combinations(range(nodes), 2)))
  pairs = pairs[rng.uniform(size=len(pairs)) < share]
  return prompts.Measured(
    prompt=0,
    rows=np.arange(nodes),
    flat=0,
    over=0,
    tightest=0.5,
    proven=False,
    pairs=pairs,
    lengths=np.full(len(pairs), 0.1),
    histogram=np.zeros(200, np.int64),
  )


def test_undecided_is_said():
  got = prompts.test(hard(), edge=0.2, minimum=25, budget=1)
  assert got.undecided
  assert not got.flagged
  some = prompts.test(hard(), edge=0.2, minimum=22, budget=1)
  assert some.flagged
  assert not some.undecided
  assert not some.answer.exact
  none = prompts.test(hard(share=0.05), edge=0.2, minimum=40, budget=1)
  assert not none.undecided


def test_flat_images_are_left_out_and_counted():
  rng = np.random.default_rng(2)
  flat = np.full((12, 8, 8, 3), (40, 90, 160), np.uint8)  # of one colour
  flat[:, 0, 0] += rng.integers(0, 3, (12, 3), dtype=np.uint8)
  honest = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
  images = np.concatenate([flat, honest])
  got = prompts.measure(images, np.arange(18), **OPTIONS)
  assert got.flat == 12
  assert got.rows.tolist() == list(range(12, 18))
  assert not prompts.test(got, edge=0.2, minimum=4, budget=ROOMY).flagged
  kept = prompts.measure(images, np.arange(18), **OPTIONS | {"flat": 0.0})
  assert kept.flat == 0
  assert prompts.test(kept, edge=0.2, minimum=4, budget=ROOMY).flagged


@pytest.mark.parametrize("shape", [(8, 8, 1), (64, 48, 3), (70, 70, 3)])
def test_flat_is_the_deviation_around_the_channels(shape):
  rng = np.random.default_rng(3)
  spans = np.concatenate([np.linspace(0, 14, 15), np.full(5, 200)])
  base = rng.integers(0, 50, (20, 1, 1, shape[2]))
  images = base + rng.uniform(0, 1, (20, *shape)) * spans[:, None, None, None]
  images[3, -1, -1] = 255  # a spot only
  images = np.round(images).astype(np.uint8)
  values = images.astype(np.float64).reshape(20, -1, shape[2])
  deviation = np.sqrt(values.var(axis=1).mean(axis=1)) / 255
  flat = float(np.sort(deviation)[8:10].mean())
  assert 3 < (deviation < flat).sum() < 15
  assert (prompts.busy(images, flat) == (deviation >= flat)).all()


def test_templates_are_no_copies_in_the_patch_distance():
  """One background, another subject: near on the whole, far in a patch."""
  rng = np.random.default_rng(4)
  images = np.repeat(picture(rng, (64, 64, 3))[None], 12, axis=0)
  images[:, 16:32, 16:32] = rng.integers(0, 256, (12, 16, 16, 3))
  found = {
    patch: prompts.measure(
      images, np.arange(12), **OPTIONS | {"patch": patch, "minimum": 10}
    ).tightest
    for patch in (None, prompts.default_patch(64, 64))
  }
  assert found[None] < 0.12
  assert found[16] > 0.35
  worst = patches.squared(images, images, 16)
  between = metrics.rms(worst, 16 * 16 * 3)
  np.testing.assert_array_equal(prompts.matrix(images, 16), between)


@pytest.mark.parametrize(
  ("size", "patch"),
  [
    ((512, 512), 128),
    ((64, 64), 16),
    ((63, 63), None),
    ((32, 512), None),
    ((512, 768), 128),
    ((100, 100), 25),
    ((97, 97), None),
    ((90, 66), None),
  ],
)
def test_default_patch(size, patch):
  got = prompts.default_patch(*size)
  assert got == patch
  if got is not None:
    assert size[0] % got == size[1] % got == 0


def test_matrix_of_whole_images_of_any_sides():
  rng = np.random.default_rng(5)
  images = rng.integers(0, 256, (5, 6, 9, 3), dtype=np.uint8)
  expected = metrics.rms(metrics.squared(images, images), 6 * 9 * 3)
  np.testing.assert_allclose(prompts.matrix(images, None), expected)


def test_ranked_by_mean_distance_then_prompt():
  rng = np.random.default_rng(6)
  close, wide = noisy(rng, picture(rng), 6, 3), noisy(rng, picture(rng), 6, 9)
  apart = rng.integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
  tested = []
  for prompt, images in ((7, wide), (2, close), (5, apart), (1, close)):
    options = OPTIONS | {"prompt": prompt}
    measured = prompts.measure(images, np.arange(6), **options)
    tested.append(prompts.test(measured, edge=0.1, minimum=4, budget=ROOMY))
  ranked = [t.measured.prompt for t in prompts.rank(tested)]
  assert ranked == [1, 2, 7]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"minimum": 1}, "minimum = 1"),
    ({"edge": 0.0}, "edge = 0.0"),
    ({"edge": 1.5}, "edge = 1.5"),
    ({"flat": -0.1}, "flat = -0.1"),
    ({"limit": 3}, "limit = 3"),
    ({"budget": -1}, "budget = -1"),
  ],
)
def test_options_are_checked(change, message):
  good = dict(minimum=10, edge=None, flat=0.02, limit=100, budget=10)
  prompts.check(**good)
  with pytest.raises(ValueError, match=message):
    prompts.check(**good | change)


# The edge.


def points(seed, prompts_, each, spread=1.0):
  """Distances of points around a centre for each prompt."""
  rng = np.random.default_rng(seed)
  centres = rng.normal(0, spread, (prompts_, 6))
  where = np.repeat(centres, each, axis=0)
  where = where + rng.normal(0, 0.05, where.shape)
  between = np.linalg.norm(where[:, None] - where[None], axis=-1) / 20
  return between, np.repeat(np.arange(prompts_), each)


def across(between, ids, asked=0.01, rate=0.01):
  return prompt_edge.across(
    between, ids, asked=asked, rate=rate, seed=0, bins=prompts.BINS
  )


def test_across_takes_pairs_of_different_prompts_only():
  between, ids = points(0, 60, 4)
  got = across(between, ids)
  other = np.triu(ids[:, None] != ids[None])
  values = np.sort(between[other])
  assert got.pairs == len(values) == math.comb(60, 2) * 16
  assert got.value == values[math.ceil(0.01 * len(values)) - 1]
  assert got.histogram.sum() == got.pairs
  assert got.interval[0] <= got.value <= got.interval[1]
  assert got.interval[0] < got.interval[1]


def test_across_covers_the_truth():
  """90% intervals of a quantile that is known from very many prompts."""
  between, ids = points(99, 400, 2)
  truth = across(between, ids, 0.05, 0.05).value
  inside = 0
  for seed in range(20):
    got = across(*points(seed, 40, 3), 0.05, 0.05)
    inside += got.interval[0] <= truth <= got.interval[1]
  assert inside >= 13  # P(fewer) < 0.1% at 90%


def test_images_that_prompts_share_do_not_move_a_low_rate():
  between, ids = points(1, 100, 3)
  clean = across(between, ids, 0.01, 1e-5)
  shared = between.copy()
  rows = np.arange(0, 24, 3)  # one image of eight prompts is the same
  shared[np.ix_(rows, rows)] = 0
  got = across(shared, ids, 0.01, 1e-5)
  assert 0 < clean.value < across(between, ids).value
  assert got.value == pytest.approx(clean.value, rel=0.1)


def test_the_tail_is_a_power():
  at = 0.2, 0.4  # theta = log 10 / log 2
  theta = math.log(10) / math.log(2)
  for rate in (1e-4, 1e-6):
    x = prompt_edge.quantile(at, 1e-3, rate)
    assert (x / 0.2) ** theta == pytest.approx(rate / 1e-3)
  assert prompt_edge.quantile(at, 1e-3, 1e-3) == 0.2
  assert prompt_edge.quantile((0.0, 0.4), 1e-3, 1e-5) == 0


def test_pair_rate_bounds_the_pairs_of_a_prompt():
  assert prompt_edge.pair_rate(0.001, 20) == 0.001
  assert prompt_edge.pair_rate(0.001, 500) * math.comb(500, 2) == 2


def test_no_other_prompt_no_pairs():
  with pytest.raises(ValueError, match=r"give prompts\.edge"):
    across(np.zeros((4, 4)), np.zeros(4, np.int64))
  with pytest.raises(ValueError, match=r"give prompts\.edge"):
    across(np.zeros((0, 0)), np.zeros(0, np.int64))


TOP = prompt_edge.Across(
  0.15, (0.14, 0.16), 0.001, 10**6, 2000, 500, np.zeros(200, np.int64)
)


def ordinary_prompts(seed, count, median, sigma):
  rng = np.random.default_rng(seed)
  return median * np.exp(sigma * rng.normal(size=count))


@pytest.mark.parametrize("copies", [0, 20, 300])
def test_ordinary_finds_the_stated_quantile(copies):
  """Whatever share of the prompts gives copies."""
  honest = ordinary_prompts(0, 1000, 0.16, 0.15)
  given = np.concatenate([honest, ordinary_prompts(1, copies, 0.02, 0.5)])
  edge = prompt_edge.choose(TOP, given, None, rate=0.01, seed=0)
  truth = 0.16 * math.exp(-0.15 * scipy.stats.norm.isf(0.01))
  assert edge.method == "ordinary"
  assert edge.value == pytest.approx(truth, rel=0.04)
  assert edge.interval[0] <= edge.value <= edge.interval[1]
  assert (honest <= edge.value).mean() < 0.03
  assert edge.rate == 0.01


def test_ordinary_prompts_beyond_the_bound_leave_it():
  edge = prompt_edge.choose(
    TOP, ordinary_prompts(0, 100, 0.4, 0.1), None, rate=0.01, seed=0
  )
  assert (edge.value, edge.method) == (TOP.value, "across")
  assert edge.interval == TOP.interval
  assert edge.ordinary[0] == 100
  assert edge.ordinary[1] > TOP.value


def test_too_few_ordinary_prompts_leave_the_bound():
  for honest in (0, prompt_edge.ORDINARY - 1):
    given = np.concatenate(
      [np.full(50, 0.01), ordinary_prompts(0, honest, 0.2, 0.05), [np.inf]]
    )
    edge = prompt_edge.choose(TOP, given, None, rate=0.01, seed=0)
    assert (edge.value, edge.method) == (TOP.value, "across")
    assert edge.ordinary == (honest, None)


def test_unsuspected_prompts_set_the_edge():
  named = ordinary_prompts(0, 200, 0.12, 0.1)
  everybody = ordinary_prompts(1, 500, 0.05, 0.1)
  edge = prompt_edge.choose(TOP, everybody, named, rate=0.05, seed=0)
  assert edge.method == "unsuspected"
  assert (named <= edge.value).mean() == pytest.approx(0.05, abs=0.006)
  far = prompt_edge.choose(TOP, everybody, 5 * named, rate=0.05, seed=0)
  assert far.value == TOP.value
  with pytest.raises(ValueError, match="2 of 20 unsuspected prompts give"):
    prompt_edge.choose(
      TOP, everybody, np.r_[0, 0, named[:18]], rate=0.05, seed=0
    )


def test_unsuspected_prompts_are_halved():
  use, rest = prompt_edge.split([9, 4, 7, 1, 3], 0)
  assert len(use) == 3
  assert sorted([*use, *rest]) == [1, 3, 4, 7, 9]
  assert prompt_edge.split([5], 0)[0].tolist() == [5]


# Training images.


@pytest.fixture(scope="module")
def training():
  rng = np.random.default_rng(8)
  images = rng.integers(0, 256, (30, 8, 8, 1), dtype=np.uint8)
  images[1] = noisy(rng, images[0], 1, 8)[0]  # near-duplicates
  images[2] = noisy(rng, images[0], 1, 8)[0]
  copies = np.ones(30, np.int64)
  copies[[0, 5]] = 4, 7
  return images, 50 + np.arange(30), copies


def test_eidetic_counts_and_precision(training):
  images, ids, copies = training
  rng = np.random.default_rng(9)
  medoids = np.concatenate(
    [
      noisy(rng, images[0], 1, 1),
      rng.integers(0, 256, (1, 8, 8, 1), dtype=np.uint8),
      noisy(rng, images[5], 1, 1),
      noisy(rng, images[5], 1, 2),
    ]
  )
  got = prompts_training.match(
    medoids, images, ids, copies, delta=0.05, duplicates_delta=0.1
  )
  assert got.ids[[0, 2, 3]].tolist() == [50, 55, 55]
  assert got.correct.tolist() == [True, False, True, True]
  assert got.duplicates[[0, 2, 3]].tolist() == [4 + 1 + 1, 7, 7]
  said = prompts_training.summary(got, delta=0.05, searched=30, extractable=6)
  assert said["correct"] == 3
  assert said["unique"] == 2
  assert said["eidetic"] == {"6": 1, "7": 1}
  np.testing.assert_allclose(
    said["curve"]["precision"], [1, 1 / 2, 2 / 3, 3 / 4]
  )
  np.testing.assert_allclose(
    said["curve"]["recall"], [1 / 6, 1 / 6, 2 / 6, 3 / 6]
  )
  alone = prompts_training.summary(
    got, delta=0.05, searched=30, extractable=None
  )
  assert alone["curve"]["recall"][-1] == 1
  assert "any rank" in alone["curve"]["recall_of"]


def test_nothing_flagged_is_no_number_that_is_none(training):
  images, ids, copies = training
  got = prompts_training.match(
    images[:0], images, ids, copies, delta=0.1, duplicates_delta=0.1
  )
  said = prompts_training.summary(got, delta=0.1, searched=30, extractable=0)
  assert said["precision"] is None
  assert said["correct"] == said["unique"] == 0
  held = prompts_training.control(images[:0], images, images, delta=0.1, seed=0)
  assert held["correct"] == 0
  assert held["rate"] == [0, 0, 1]


def test_the_control_searches_as_many(training):
  images, _, _ = training
  rng = np.random.default_rng(10)
  held_out = rng.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
  medoids = np.concatenate([images[:20], held_out[:2]])
  got = prompts_training.control(medoids, images, held_out, delta=0.01, seed=0)
  assert got["searched"] == 12
  assert got["correct"] == 2
  assert 1 <= got["members_correct"] <= 12


def test_a_prompt_is_hit_by_any_of_its_generations():
  near = np.array([0.01, 0.3, 0.02, 0.01, 0.4, 0.0])
  ids = np.array([0, 0, 0, 4, 2, -1])
  found = prompts_training.hit(ids, near, 6, 0.05)
  np.testing.assert_array_equal(found, np.isin(np.arange(6), [0, 4]))

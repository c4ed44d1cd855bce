# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from diffmem.distances import knn, metrics
from diffmem.extraction import rule, side_metrics
from diffmem.extraction.side_metrics import Near


def near(table, kind):
  """A whole table g [n m] as best references, best first."""
  order = np.argsort(table if kind == "distance" else -table, axis=1)
  values = np.take_along_axis(table, order, axis=1)
  return Near(order.astype(np.int64), values, kind, table.shape[1])


def naive(table, band, kind):
  """The definitions, word by word."""
  a, b = band
  best = table.min(axis=1) if kind == "distance" else table.max(axis=1)
  matched = [x for x in range(len(table)) if a <= best[x] <= b]
  union = set()
  for x in range(len(table)):
    union |= {j for j in range(table.shape[1]) if a <= table[x, j] <= b}
  return len(matched) / len(table), len(union) / len(table)


@pytest.mark.parametrize("kind", side_metrics.KINDS)
@pytest.mark.parametrize("band", [(0.4, 0.5), (0.5, 0.9), (0.0, 1.0)])
def test_scores_are_their_definition(kind, band):
  table = np.random.default_rng(0).uniform(0.2, 0.9, (40, 30))
  found = side_metrics.scores(near(table, kind), band)
  assert (found["ams"], found["ums"]) == naive(table, band, kind)


def test_the_union_takes_every_reference_and_the_best_takes_one():
  """UMS may exceed AMS, and a reference may be in several bands."""
  table = np.array([[0.9, 0.7, 0.1], [0.2, 0.65, 0.61]])
  found = side_metrics.banded(
    near(table, "similarity"), {"high": (0.6, 0.8), "top": (0.8, 1.0)}
  )
  high, top = found["high"], found["top"]
  assert high["banded"]["ams"] == 0.5
  assert high["banded"]["ums"] == 1.0  # of references 1, 1, 2
  assert high["banded"]["ums_best"] == 0.5
  assert high["cumulative"]["ams"] == 1.0
  assert high["cumulative"]["unique"] == 3
  assert top["banded"] == top["cumulative"]
  assert top["banded"]["unique"] == 1


def test_cumulative_bands_end_at_the_best_value():
  table = np.array([[0.0, 0.5], [0.2, 0.9], [0.7, 0.8]])
  found = side_metrics.banded(near(table, "distance"), {"mid": (0.1, 0.3)})
  assert found["mid"]["banded"]["ams"] == pytest.approx(1 / 3)
  assert found["mid"]["cumulative"]["ams"] == pytest.approx(2 / 3)


def test_a_search_that_ends_inside_the_band_is_refused():
  table = np.random.default_rng(0).uniform(0, 1, (5, 9))
  whole = near(table, "distance")
  cut = Near(whole.rows[:, :3], whole.values[:, :3], "distance", 9)
  with pytest.raises(ValueError, match="larger k"):
    side_metrics.inside(cut, (0.0, 0.9))
  low = float(cut.values[:, -1].min()) / 2
  np.testing.assert_array_equal(
    side_metrics.inside(cut, (0.0, low)).sum(),
    side_metrics.inside(whole, (0.0, low)).sum(),
  )


@pytest.fixture(scope="module")
def searched():
  rng = np.random.default_rng(0)
  references = rng.integers(0, 256, (80, 4, 4, 1), dtype=np.uint8)
  noise = rng.integers(-9, 10, (60, 4, 4, 1))
  queries = references[rng.integers(0, 20, 60)] + noise
  queries = queries.clip(0, 255).astype(np.uint8)
  return queries, references, knn.Index(references).search(queries, 50)


def test_normalised_l2_is_the_rule_s_ratio(searched):
  _, _, (rows, squared) = searched
  found = side_metrics.normalised_l2(
    rows, squared, d=16, neighbours=50, references=80
  )
  expected = rule.ratios(
    rule.read_nearest(rows, squared, d=16, neighbours=50),
    np.ones(80),
    alpha=0.5,
    centring="generation",
  )
  np.testing.assert_allclose(found.values[:, 0], expected)


def test_normalised_l2_needs_no_more_than_its_neighbours(searched):
  queries, references, (rows, squared) = searched
  found = side_metrics.normalised_l2(
    rows, squared, d=16, neighbours=50, references=80
  )
  distances = metrics.rms(metrics.squared(queries, references), 16)
  mean = np.sort(distances, axis=1)[:, :50].mean(axis=1, keepdims=True)
  for band in ((0.0, 1.0), (1.0, 1.6), (1.6, 1.99)):
    scores = side_metrics.scores(found, band)
    assert (scores["ams"], scores["ums"]) == naive(
      distances / (0.5 * mean), band, "distance"
    )


def test_intervals_cover():
  """Of a population whose UMS is known: 40 ids, each equally likely."""
  n, hits = 100, 0
  expected = 40 * (1 - (1 - 1 / 80) ** n) / n
  for seed in range(300):
    rows = np.random.default_rng(seed).integers(0, 80, (n, 1))
    values = np.where(rows < 40, 0.1, 0.9)
    found = side_metrics.scores(Near(rows, values, "distance", 1), (0.0, 0.5))
    low, high = found["ums_interval"]
    hits += low <= expected <= high
    assert low <= found["ums"] <= high
  assert hits >= 0.93 * 300


def test_budgets_are_the_mean_over_smaller_samples():
  rng = np.random.default_rng(0)
  table = rng.uniform(0, 1, (30, 6))
  found = side_metrics.scores(
    near(table, "similarity"), (0.7, 1.0), budgets=(5, 30)
  )
  drawn = []
  for _ in range(4000):
    part = table[rng.choice(30, 5, replace=False)]
    drawn.append((part >= 0.7).any(axis=0).sum())
  assert found["budgets"]["5"] == pytest.approx(np.mean(drawn), abs=0.05)
  assert found["budgets"]["30"] == pytest.approx(found["unique"])


def test_percentiles_face_the_near_end():
  table = np.linspace(0, 1, 101)[:, None]
  assert side_metrics.percentile(near(table, "similarity")) == pytest.approx(
    0.95
  )
  assert side_metrics.percentile(near(table, "distance")) == pytest.approx(0.05)


def test_duplicates_do_not_hide_a_copy():
  """Two near-equal references beside the generation, the third far away."""
  values = np.array([[0.1, 0.101, 0.8], [0.3, 0.4, 0.5], [0.0, 0.0, 0.2]])
  rows = np.array([[4, 5, 0], [1, 2, 3], [4, 5, 1]])
  found = Near(rows, values, "distance", 6)
  blind = side_metrics.nearest_ratio(found)
  groups = np.array([0, 1, 2, 3, 4, 4])
  seeing = side_metrics.nearest_ratio(found, groups)
  np.testing.assert_allclose(blind, [0.1 / 0.101, 0.75, 0.0])
  np.testing.assert_allclose(seeing, [0.125, 0.75, 0.0])


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda n: Near(n.rows, n.values, "cosine", 3), "expected one of"),
    (lambda n: Near(n.rows, n.values, "similarity", 3), "best first"),
    (lambda n: side_metrics.inside(n, (2.0, 1.0)), "is empty"),
  ],
)
def test_errors(call, message):
  table = np.array([[0.1, 0.2, 0.3]])
  with pytest.raises(ValueError, match=message):
    call(near(table, "distance"))

# SPDX-License-Identifier: Apache-2.0
"""The best clique against brute force, networkx, and graphs made to be hard."""

import itertools
import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.extraction import cliques
from diffmem.extraction.cliques import best_clique, best_clique_of_edges

NEAR, FAR, THRESHOLD = 0.05, 0.5, 0.1


def symmetric(upper):
  upper = np.triu(upper, 1)
  return upper + upper.T


def noisy(seed, n):
  """Every pair within the threshold."""
  rng = np.random.default_rng(seed)
  return symmetric(rng.uniform(0.01, THRESHOLD, (n, n)))


def separate(distances, pairs):
  for i, j in pairs:
    distances[i, j] = distances[j, i] = FAR
  return distances


def random_graph(seed, n, share):
  rng = np.random.default_rng(seed)
  apart = symmetric(rng.uniform(size=(n, n))) > share
  return np.where(apart, FAR, noisy(seed, n))


def moon_moser(k, distances):
  groups = np.arange(3 * k) // 3
  return np.where(groups[:, None] == groups, FAR, distances)


def sums(distances, nodes):
  return math.fsum(distances[i, j] for i, j in itertools.combinations(nodes, 2))


def key(distances, nodes):
  return -len(nodes), sums(distances, nodes), tuple(nodes)


def brute(distances, threshold, minimum):
  """Looks at every subset."""
  best = None
  for size in range(minimum, len(distances) + 1):
    for nodes in itertools.combinations(range(len(distances)), size):
      pairs = itertools.combinations(nodes, 2)
      if all(distances[i, j] <= threshold for i, j in pairs):
        now = key(distances, nodes)
        best = now if best is None or now < best else best
  return best


def maximal(distances, threshold):
  """The best clique by enumeration with networkx."""
  graph = nx.from_edgelist(np.argwhere(distances <= threshold))
  graph.remove_edges_from(list(nx.selfloop_edges(graph)))
  found = [sorted(map(int, clique)) for clique in nx.find_cliques(graph)]
  size = max(map(len, found))
  return min(key(distances, c) for c in found if len(c) == size)


def naive_medoid(distances, nodes):
  return min(nodes, key=lambda i: math.fsum(distances[i, j] for j in nodes))


def check(answer, distances, expected):
  size, total, nodes = expected
  assert answer.exact
  assert answer.largest
  assert answer.bound == -size
  assert answer.clique.ids.tolist() == list(nodes)
  assert answer.clique.size == -size
  assert answer.clique.mean == pytest.approx(total / math.comb(-size, 2))
  assert answer.clique.medoid == naive_medoid(distances, nodes)


@st.composite
def small(draw):
  """Few levels, so that sums and means often tie."""
  n = draw(st.integers(0, 9))
  levels = draw(st.integers(1, 6))
  values = st.integers(0, levels).map(lambda v: v / 8)
  upper = draw(st.lists(values, min_size=n * n, max_size=n * n))
  return symmetric(np.array(upper, float).reshape(n, n))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(small(), st.integers(0, 6), st.integers(2, 5))
def test_equals_brute_force(distances, level, minimum):
  answer = best_clique(distances, level / 8, minimum)
  expected = brute(distances, level / 8, minimum)
  if expected is None:
    assert answer.clique is None
    assert answer.exact
    assert not answer.largest
    assert answer.bound < minimum
  else:
    check(answer, distances, expected)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(small(), st.integers(0, 6), st.integers(0, 900))
def test_any_budget_is_honest(distances, level, budget):
  """The bound holds, the clique is one, and exact means exact."""
  answer = best_clique(distances, level / 8, 2, budget=budget)
  expected = brute(distances, level / 8, 2)
  if answer.exact and expected is not None:
    check(answer, distances, expected)
  if expected is None:
    assert answer.clique is None
    return
  assert answer.bound >= -expected[0]
  if answer.clique is not None:
    pairs = itertools.combinations(answer.clique.ids, 2)
    assert all(distances[i, j] <= level / 8 for i, j in pairs)
    assert key(distances, answer.clique.ids.tolist()) >= expected
  else:
    assert not answer.exact


@pytest.mark.parametrize(
  ("n", "share"), [(40, 0.3), (40, 0.6), (28, 0.85), (200, 0.1), (120, 0.3)]
)
def test_equals_enumeration_of_maximal_cliques(n, share):
  for seed in range(3):
    distances = random_graph(seed, n, share)
    check(
      best_clique(distances, THRESHOLD, 3),
      distances,
      maximal(distances, THRESHOLD),
    )


def test_near_copies_with_a_few_pairs_too_far_apart():
  """Disjoint pairs: 2^30 maximal cliques; the best one is known."""
  rng = np.random.default_rng(0)
  pairs = rng.permutation(500)[:60].reshape(30, 2)
  distances = separate(np.full((500, 500), 0.05), pairs)
  np.fill_diagonal(distances, 0)
  dropped, kept = pairs.T
  others = np.setdiff1d(np.arange(500), pairs)
  distances[np.ix_(others, kept)] = distances[np.ix_(kept, others)].T.copy()
  distances[np.ix_(others, dropped)] = 0.06
  distances[np.ix_(dropped, others)] = 0.06
  answer = best_clique(distances, THRESHOLD, 10)
  nodes = tuple(np.setdiff1d(np.arange(500), dropped).tolist())
  check(answer, distances, key(distances, nodes))


def test_near_copies_with_noise_are_exact():
  """A chain, a star and loose pairs taken out of 500 noisy near copies."""
  chain = [(i, i + 1) for i in range(0, 9)]
  star = [(20, j) for j in range(21, 60)]
  loose = [(i, i + 1) for i in range(100, 130, 2)]
  distances = separate(noisy(0, 500), chain + star + loose)
  answer = best_clique(distances, THRESHOLD, 10)
  assert answer.exact
  assert answer.clique.size == answer.bound == 500 - 5 - 1 - 15
  ids = set(answer.clique.ids.tolist())
  assert 20 not in ids
  assert all(len(ids & {i, i + 1}) == 1 for i, _ in loose)
  # no single exchange betters it
  total = sums(distances, sorted(ids))
  for i, j in loose:
    assert sums(distances, sorted(ids ^ {i, j})) > total


def test_complete_graph():
  distances = noisy(1, 500)
  answer = best_clique(distances, THRESHOLD, 10)
  check(answer, distances, key(distances, tuple(range(500))))


def test_copies_at_distance_zero():
  answer = best_clique(np.zeros((600, 600)), 0.0, 10)
  assert answer.exact
  assert (answer.clique.size, answer.clique.mean) == (600, 0)
  assert answer.clique.medoid == 0


@pytest.mark.parametrize("k", [2, 4, 9])
def test_moon_moser_small(k):
  distances = moon_moser(k, noisy(k, 3 * k))
  answer = best_clique(distances, THRESHOLD, 2)
  choices = itertools.product(*np.arange(3 * k).reshape(k, 3).tolist())
  if k <= 4:
    best = min(key(distances, c) for c in choices)
  else:
    best = maximal(distances, THRESHOLD)
  check(answer, distances, best)


@pytest.mark.parametrize("even", [False, True])
def test_moon_moser_large_says_that_the_mean_is_not_proved(even):
  distances = np.full((498, 498), NEAR) if even else noisy(0, 498)
  distances = moon_moser(166, distances)
  answer = best_clique(distances, THRESHOLD, 10, budget=50_000)
  assert answer.largest
  assert answer.clique.size == 166
  assert not answer.exact
  assert answer.work < 100_000


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_dense_random_graphs_end_with_the_budget(share):
  distances = random_graph(0, 500, share)
  answer = best_clique(distances, THRESHOLD, 10, budget=100_000)
  assert not answer.exact
  assert not answer.largest
  assert answer.clique.size < answer.bound < 500
  assert answer.work < 250_000
  nodes = answer.clique.ids
  inside = distances[np.ix_(nodes, nodes)]
  assert (inside <= THRESHOLD).all()
  total = sums(distances, nodes.tolist())
  assert answer.clique.mean == pytest.approx(total / math.comb(len(nodes), 2))


def test_a_clique_planted_in_a_hard_graph_is_found():
  distances = random_graph(3, 500, 0.7)
  planted = np.arange(40, 400, 9)
  distances[np.ix_(planted, planted)] = noisy(4, len(planted))
  answer = best_clique(distances, THRESHOLD, 10, budget=100_000)
  assert set(planted.tolist()) <= set(answer.clique.ids.tolist())


def test_undecided_is_not_no():
  """Where the budget ends before a clique is found or ruled out."""
  distances = random_graph(0, 500, 0.5)
  answer = best_clique(distances, THRESHOLD, 30, budget=0)
  assert answer.clique is None
  assert not answer.exact
  assert not answer.largest
  assert answer.bound >= 30
  decided = best_clique(random_graph(0, 200, 0.3), THRESHOLD, 12)
  assert decided.clique is None
  assert decided.exact


def test_components_are_compared():
  """Two of four nodes: the closer one; a closer triangle does not count."""
  distances = np.full((12, 12), FAR)
  for start, size, length in ((0, 4, 0.08), (4, 4, 0.06), (8, 3, 0.01)):
    part = slice(start, start + size)
    distances[part, part] = length
  answer = best_clique(distances, THRESHOLD, 3)
  assert answer.exact
  assert answer.clique.ids.tolist() == [4, 5, 6, 7]
  assert answer.clique.mean == pytest.approx(0.06)
  distances[4:8, 4:8] = 0.08
  tied = best_clique(distances, THRESHOLD, 3)
  assert tied.clique.ids.tolist() == [0, 1, 2, 3]


def test_medoid_and_its_ties():
  distances = np.array(
    [[0, 0.25, 0.5, 0.5], [0.25, 0, 0.25, 0.5], [0.5, 0.25, 0, 0.25], [0.5] * 4]
  )
  distances = symmetric(distances)
  assert best_clique(distances, 0.5, 2).clique.medoid == 1
  assert best_clique(np.full((4, 4), 0.5), 0.5, 2).clique.medoid == 0


@pytest.mark.parametrize("n", [0, 1, 2])
def test_nothing_to_find(n):
  for distances in (np.full((n, n), FAR), np.zeros((n, n))):
    answer = best_clique(distances, THRESHOLD, 3)
    assert answer.clique is None
    assert answer.exact
    assert answer.bound == min(2, n)
  none = best_clique_of_edges(np.zeros((0, 2), int), np.zeros(0), 0.1, 2)
  assert none.clique is None


@pytest.mark.parametrize("budget", [20_000, 1_000_000])
def test_order_of_rows_does_not_matter(budget):
  """Nor where distances tie, nor where the budget ends first."""
  rng = np.random.default_rng(5)
  ids = rng.choice(10_000, 60, replace=False)
  distances = np.round(random_graph(5, 60, 0.8), 2)
  found = []
  for _ in range(3):
    order = rng.permutation(60)
    shuffled = distances[np.ix_(order, order)]
    found.append(
      best_clique(shuffled, THRESHOLD, 3, ids=ids[order], budget=budget)
    )
  first = found[0]
  for answer in found:
    assert (answer.bound, answer.exact) == (first.bound, first.exact)
    assert answer.work == first.work
    assert answer.clique.ids.tolist() == first.clique.ids.tolist()
    assert answer.clique.medoid == first.clique.medoid
    assert answer.clique.mean == first.clique.mean


def test_edges_equal_the_matrix():
  distances = random_graph(7, 80, 0.4)
  ids = np.arange(80) * 10 + 3
  rows, columns = np.triu_indices(80, 1)
  order = np.random.default_rng(0).permutation(len(rows))
  edges = np.stack([ids[columns], ids[rows]], axis=1)[order]
  lengths = distances[rows, columns][order]
  one = best_clique_of_edges(edges, lengths, THRESHOLD, 3)
  other = best_clique(distances, THRESHOLD, 3, ids=ids)
  assert one.clique.ids.tolist() == other.clique.ids.tolist()
  assert (one.clique.mean, one.work) == (other.clique.mean, other.work)


@pytest.mark.parametrize("budget", [0, 1_000_000])
def test_a_component_larger_than_is_held_densely(monkeypatch, budget):
  """Split by nodes: the same answer, or an honest bound."""
  distances = random_graph(8, 150, 0.3)
  whole = best_clique(distances, THRESHOLD, 3)
  monkeypatch.setattr(cliques, "DENSE", 20)
  split = best_clique(distances, THRESHOLD, 3, budget=budget)
  if budget:
    assert split.exact
    assert split.clique.ids.tolist() == whole.clique.ids.tolist()
  else:
    assert not split.exact
    assert split.bound >= whole.clique.size
  monkeypatch.setattr(cliques, "LARGEST", 10)
  cut = best_clique(distances, THRESHOLD, 3, budget=budget)
  assert not cut.exact
  assert cut.bound >= whole.clique.size


def test_a_long_sparse_graph():
  """20,000 nodes in a ring, each joined to the next three: cliques of 4."""
  n = 20_000
  nodes = np.arange(n)
  edges = np.concatenate(
    [np.stack([nodes, (nodes + s) % n], axis=1) for s in (1, 2, 3)]
  )
  lengths = np.full(len(edges), 0.05)
  assert best_clique_of_edges(edges, lengths, 0.1, 10).exact
  answer = best_clique_of_edges(edges, lengths, 0.1, 4, budget=20_000)
  assert answer.clique.size == 4
  assert answer.bound <= 7


def matrix(change):
  distances = noisy(0, 4)
  change(distances)
  return lambda: best_clique(distances, THRESHOLD, 2)


def edges(pairs, lengths=None, **options):
  lengths = np.full(len(pairs), NEAR) if lengths is None else lengths
  return lambda: best_clique_of_edges(
    np.array(pairs), np.array(lengths), THRESHOLD, 2, **options
  )


def put(value, *places):
  def change(distances):
    for place in places:
      distances[place] = value

  return change


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (matrix(put(math.nan, (1, 2), (2, 1))), r"distances\[1, 2\] = nan"),
    (matrix(put(-0.1, (1, 2), (2, 1))), r"distances\[1, 2\] = -0.1.*0 or"),
    (matrix(put(0.2, (3, 0))), r"distances\[0, 3\] = .*symmetric"),
    (lambda: best_clique(noisy(0, 4), math.nan, 2), "threshold = nan"),
    (lambda: best_clique(noisy(0, 4), math.inf, 2), "threshold = inf"),
    (lambda: best_clique(noisy(0, 4), 0.1, 1), "minimum = 1.*at least 2"),
    (lambda: best_clique(noisy(0, 4), 0.1, 2, budget=-1), "budget = -1"),
    (edges([[1, 2], [3, 3]]), r"edges\[1\] = \[3 3\].*different"),
    (edges([[1, 2], [2, 1]]), r"edges\[1\] = \[2 1\].*each pair once"),
    (edges([[1, 2]], ids=np.array([1, 3])), r"edges\[0\] = \[1 2\].*known"),
    (edges([[1, 2]], ids=np.array([1, 2, 2])), "ids hold 2 twice"),
    (edges([[1, 2]], [math.nan]), r"lengths\[0\] = nan"),
    (edges([[1, 2]], [-1.0]), r"lengths\[0\] = -1.0"),
  ],
)
def test_input_is_checked(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)

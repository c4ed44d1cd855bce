# SPDX-License-Identifier: Apache-2.0
"""Groups against networkx; graphs of prompts against pairs of each."""

import networkx
import numpy as np
import pytest

from diffmem import distances, store
from diffmem.distances import metrics


def edges_of(pairs):
  i, j = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
  squared = np.zeros(len(i), np.int64)
  return distances.Edges(i, j, squared, metrics.rms(squared, 1))


@pytest.mark.parametrize("seed", range(5))
def test_groups_equal_networkx(seed):
  graph = networkx.gnm_random_graph(60, 35, seed=seed)
  labels = distances.groups(edges_of(graph.edges), 60)
  assert labels.dtype == np.int64
  expected = np.empty(60, np.int64)
  for component in networkx.connected_components(graph):
    expected[list(component)] = min(component)
  np.testing.assert_array_equal(labels, expected)


def test_a_chain_is_one_group_and_no_edges_are_none():
  chain = edges_of([(1, 4), (2, 4), (2, 5)])
  assert distances.groups(chain, 7).tolist() == [0, 1, 1, 3, 1, 1, 6]
  assert distances.groups(edges_of([]), 3).tolist() == [0, 1, 2]


def test_an_edge_beyond_the_images_is_refused():
  with pytest.raises(ValueError, match="row 4, expected rows below n = 4"):
    distances.groups(edges_of([(0, 4)]), 4)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("patch", [None, 2])
def test_prompt_graphs(tmp_path, stored, patch):
  rng = np.random.default_rng(0)
  images = (rng.integers(0, 3, (30, 4, 4, 1)) * 100).astype(np.uint8)
  images[20:] = images[:10]
  prompts = rng.choice([3, 7, 9], 30)
  prompts[4] = 1  # an image alone
  bank = images
  if stored:
    bank = store.create(tmp_path, shape=images.shape, dtype="uint8", chunk=30)
    bank.write(0, images)
  found = list(
    distances.prompt_graphs(bank, prompts, threshold=0.3, patch=patch)
  )
  assert [graph.prompt for graph in found] == [1, 3, 7, 9]
  assert len(found[0].rows) == 1
  every = distances.pairs(images, threshold=0.3, patch=patch)
  inside = prompts[every.i] == prompts[every.j]
  assert 0 < inside.sum() < len(every)
  pairs = [
    (i, j, squared, distance)
    for graph in found
    for i, j, squared, distance in zip(
      graph.edges.i,
      graph.edges.j,
      graph.edges.squared,
      graph.edges.distances,
      strict=True,
    )
  ]
  expected = zip(
    every.i[inside],
    every.j[inside],
    every.squared[inside],
    every.distances[inside],
    strict=True,
  )
  assert sorted(pairs) == sorted(expected)
  for graph in found:
    np.testing.assert_array_equal(prompts[graph.rows], graph.prompt)
    assert np.isin(graph.edges.i, graph.rows).all()
    assert (graph.edges.i < graph.edges.j).all()


@pytest.mark.parametrize(
  ("prompts", "options", "message"),
  [
    (np.zeros(2, int), {}, "2 prompts for 3 images"),
    (np.zeros(3, int), dict(threshold=2.0), "threshold = 2.0"),
    (np.zeros(3, int), dict(patch=4), "sizes that do: 1, 2"),
  ],
)
def test_bad_input_is_refused_before_any_graph(prompts, options, message):
  images = np.zeros((3, 2, 2, 1), np.uint8)
  with pytest.raises(ValueError, match=message):
    distances.prompt_graphs(images, prompts, **dict(threshold=0.5) | options)

# SPDX-License-Identifier: Apache-2.0
import numpy as np
from scipy import stats

from diffmem.data import streams


def test_streams_never_change():
  """Results recorded once: a split must be the same in every version."""
  np.testing.assert_array_equal(
    streams.permutation(8, 0, "membership"), [7, 3, 4, 1, 5, 6, 2, 0]
  )
  assert streams.words(1, 7, "epoch", 3)[0] == 10990821461058591867


def test_streams_with_other_names_differ():
  names = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (2**70, "a")]
  found = {tuple(streams.words(4, *name).tolist()) for name in names}
  assert len(found) == len(names)


def test_permutations_are_uniform():
  counts = np.zeros(24)
  codes = {}
  for seed in range(2400):
    order = tuple(streams.permutation(4, seed, "x").tolist())
    assert sorted(order) == [0, 1, 2, 3]
    counts[codes.setdefault(order, len(codes))] += 1
  assert stats.chisquare(counts).pvalue > 1e-4


def test_coins_are_fair():
  heads = int(streams.coins(10_000, 0, "x").sum())
  assert stats.binomtest(heads, 10_000).pvalue > 1e-4

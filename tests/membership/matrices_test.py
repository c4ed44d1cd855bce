# SPDX-License-Identifier: Apache-2.0
"""Pairs of models: who is left out, and what leaks when only one is."""

import functools
import inspect

import numpy as np
import pytest

from diffmem import stats
from diffmem.membership import lira, matrices, rmia


def halves(pairs, n, rng):
  """Masks of complementary halves."""
  rows = []
  for _ in range(pairs):
    row = np.zeros(n, bool)
    row[rng.permutation(n)[: n // 2]] = True
    rows += [row, ~row]
  return np.array(rows)


def leave_one_out(fn, losses, masks):
  """What must not be done."""
  rows = np.arange(len(masks))
  return np.stack(
    [fn(losses[m], losses[rows != m], masks[rows != m]) for m in rows]
  )


ATTACKS = {
  "lira online": functools.partial(lira.score, variant="online"),
  "lira offline": functools.partial(lira.score, variant="offline"),
  "lira density": functools.partial(lira.score, variant="offline-density"),
  "lira example": functools.partial(lira.score, variance="example"),
  "rmia online": rmia.score,
  "rmia offline": functools.partial(rmia.score, variant="offline"),
  "rmia pool": functools.partial(rmia.score, population="pool"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_noise_tells_nothing(name):
  rng = np.random.default_rng(0)
  masks = halves(4, 1500, rng)
  losses = np.exp(rng.normal(size=masks.shape))
  scores = matrices.leave_pair_out(ATTACKS[name], losses, masks)
  inside, outside = scores[masks], scores[~masks]
  # 6,000 a side, but of 1,500 images: standard error below .01
  assert abs(stats.auc(inside, outside) - 0.5) < 0.02
  for fpr in (0.05, 0.01):
    assert stats.tpr_at(inside, outside, fpr) == pytest.approx(fpr, rel=0.45)


@pytest.mark.parametrize(
  ("name", "leak"),
  [("lira example", 0.04), ("lira online", 0.02), ("rmia offline", 0.01)],
)
def test_leaving_out_one_of_the_pair_leaks_on_pure_noise(name, leak):
  """The direction is that of the counts: scores of members come out lower."""
  rng = np.random.default_rng(1)
  masks = halves(4, 1500, rng)
  losses = np.exp(rng.normal(size=masks.shape))
  scores = leave_one_out(ATTACKS[name], losses, masks)
  leaking = stats.auc(scores[masks], scores[~masks])
  paired = matrices.leave_pair_out(ATTACKS[name], losses, masks)
  honest = stats.auc(paired[masks], paired[~masks])
  assert leaking < 0.5 - leak
  assert abs(honest - 0.5) < 0.01


def test_both_of_the_pair_are_left_out():
  masks = halves(3, 6, np.random.default_rng(2))
  losses = np.arange(36.0).reshape(6, 6)
  seen = []

  def fn(target, shadows, kept):
    seen.append((target[0] // 6, tuple(shadows[:, 0] // 6)))
    np.testing.assert_array_equal(kept.sum(0), 2)
    return target

  got = matrices.leave_pair_out(fn, losses, masks)
  np.testing.assert_array_equal(got, losses)
  assert seen[0] == (0, (2, 3, 4, 5))
  assert seen[3] == (3, (0, 1, 4, 5))
  assert [m for m, _ in seen] == [0, 1, 2, 3, 4, 5]


def test_unpaired_models_are_refused():
  masks = halves(3, 8, np.random.default_rng(3))
  losses = np.random.default_rng(4).uniform(1, 2, masks.shape)
  plain = inspect.unwrap(matrices.leave_pair_out)  # its types come first
  pair = functools.partial(plain, lira.score)
  with pytest.raises(ValueError, match="5 models: expected an even number"):
    pair(losses[:5], masks[:5])
  with pytest.raises(ValueError, match="2 models: expected an even number"):
    pair(losses[:2], masks[:2])
  order = [0, 2, 1, 3, 4, 5]
  with pytest.raises(ValueError, match="models 0 and 1 are not a pair: they"):
    pair(losses[order], masks[order])
  with pytest.raises(ValueError, match=r"masks have shape \(6, 8\), losses"):
    pair(losses[:, :7], masks)


def test_averages():
  losses = np.random.default_rng(5).uniform(1, 2, (4, 5, 3, 2))
  together = matrices.averaged(losses, 2, augmentations=True)
  np.testing.assert_allclose(together, losses.mean((2, 3)))
  apart = matrices.averaged(losses, 2, augmentations=False)
  np.testing.assert_allclose(apart, losses.mean(2))
  plain = losses[..., 0, 0]
  for axes, array in ((2, plain), (1, plain[0])):
    got = matrices.averaged(array, axes, augmentations=True)
    np.testing.assert_array_equal(got, array)
    got = matrices.averaged(array, axes, augmentations=False)
    np.testing.assert_array_equal(got, array[..., None])
  with pytest.raises(ValueError, match=r"shape \(4, 5, 3, 2\): expected 1"):
    matrices.averaged(losses, 1, augmentations=True)


def test_statistics():
  np.testing.assert_allclose(
    matrices.statistic(np.array([1.0, np.e]), "log"), [0, -1]
  )
  np.testing.assert_array_equal(
    matrices.statistic(np.array([1.0, -2.0]), "loss"), [-1, 2]
  )
  with pytest.raises(ValueError, match="a loss is 0, which has no logarithm"):
    matrices.statistic(np.array([1.0, 0.0]), "log")
  with pytest.raises(ValueError, match="statistic 'mse': choose one of log"):
    matrices.statistic(np.ones(1), "mse")

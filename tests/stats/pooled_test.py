# SPDX-License-Identifier: Apache-2.0
"""Pooled over models: one model is the plain ROC; images are the unit."""

import numpy as np
import pytest

from diffmem import stats
from diffmem.stats import pooled_rate as rate


def naive(scores, inside, seed, resamples):
  """AUC of resampled images, pairs laid out one by one."""
  rng = np.random.default_rng(seed)
  n = scores.shape[1]
  found = []
  for _ in range(resamples):
    drawn = rng.integers(n, size=n)
    s, i = scores[:, drawn].ravel(), inside[:, drawn].ravel()
    found.append(stats.auc(s[i], s[~i]))
  return np.quantile(found, [0.025, 0.975])


def paired(models, n, rng):
  masks = rng.random((models // 2, n)) < 0.5
  return np.stack([masks, ~masks], axis=1).reshape(models, n)


def test_one_model_is_the_plain_summary():
  rng = np.random.default_rng(0)
  inside = rng.random((1, 300)) < 0.4
  scores = (rng.normal(size=(1, 300)) + inside).round(1)  # with ties
  got = stats.pooled(scores, inside, resamples=200, seed=3)
  assert got == stats.summary(
    scores[inside], scores[~inside], resamples=200, seed=3
  )
  value = stats.interval(
    scores[inside], scores[~inside], fpr=0.01, resamples=200, seed=3
  )
  assert got["tpr@0.01"] == list(value)


def test_one_model_in_pieces(monkeypatch):
  rng = np.random.default_rng(1)
  inside = rng.random((1, 50)) < 0.5
  scores = rng.normal(size=(1, 50))
  whole = stats.pooled(scores, inside, resamples=50, seed=0)
  monkeypatch.setattr("diffmem.stats.curves.CELLS", 120)
  pieces = stats.pooled(scores, inside, resamples=50, seed=0)
  assert pieces == stats.summary(
    scores[inside], scores[~inside], resamples=50, seed=0
  )
  np.testing.assert_allclose(pieces["auc"], whole["auc"], atol=0.1)


def test_many_models_equal_a_naive_twin():
  rng = np.random.default_rng(2)
  inside = paired(6, 80, rng)
  scores = rng.normal(size=(6, 80)) + inside + 2 * rng.normal(size=80)[None]
  got = stats.pooled(scores, inside, resamples=600, seed=0)
  assert got["auc"][0] == pytest.approx(
    stats.auc(scores[inside], scores[~inside])
  )
  assert got["tpr@0.01"][0] == stats.tpr_at(
    scores[inside], scores[~inside], 0.01
  )
  low, high = naive(scores, inside, 1, 600)
  np.testing.assert_allclose(got["auc"][1:], [low, high], atol=0.012)
  assert got["tpr@0.001"] is None  # 240 pairs of non-members


def test_the_unit_is_the_image_not_the_pair():
  """The same image under eight models tells no more than under one."""
  rng = np.random.default_rng(3)
  member = np.arange(100) < 50
  scores = rng.normal(size=100) + 0.5 * member
  one = stats.pooled(scores[None], member[None], seed=0)
  copies = np.tile(scores, (8, 1)), np.tile(member, (8, 1))
  many = stats.pooled(*copies, seed=0)
  np.testing.assert_allclose(many["auc"], one["auc"], atol=0.01)
  flat = stats.interval(copies[0][copies[1]], copies[0][~copies[1]], seed=0)
  assert flat[2] - flat[1] < 0.5 * (many["auc"][2] - many["auc"][1])


def test_pairs_that_do_not_count_are_never_read():
  rng = np.random.default_rng(4)
  inside = paired(4, 40, rng)
  scores = rng.normal(size=(4, 40)) + inside
  counted = np.ones((4, 40), bool)
  counted[:, 30:] = False
  counted[0, :5] = False
  holes = np.where(counted, scores, np.nan)
  got = stats.pooled(holes, inside, counted=counted, seed=0)
  want = stats.auc(scores[inside & counted], scores[~inside & counted])
  assert got["auc"][0] == pytest.approx(want)
  assert got["auc"][1] <= want <= got["auc"][2]


def test_perfect_separation_has_an_exact_end():
  inside = paired(4, 30, np.random.default_rng(5))
  got = stats.pooled(inside.astype(float), inside, seed=0)
  assert got["auc"][0] == got["auc"][2] == 1
  assert got["auc"][1] == pytest.approx(stats.clopper_pearson(30, 30)[0])


def test_coverage():
  """95% intervals of pooled models hold the truth about as often."""
  rng = np.random.default_rng(6)
  held = 0
  for seed in range(60):
    inside = paired(4, 60, rng)
    scores = rng.normal(size=(4, 60)) + rng.normal(size=60)[None]
    _, low, high = stats.pooled(scores, inside, resamples=150, seed=seed)["auc"]
    held += low <= 0.5 <= high
  assert held >= 50


def test_a_rate_of_one_model_is_exact():
  hits = np.array([[True, True, False, False, True]])
  counted = np.array([[True, True, True, True, False]])
  got = rate(hits, counted, seed=0)
  assert got == [0.5, *stats.clopper_pearson(2, 4)]
  assert rate(hits, np.zeros((1, 5), bool), seed=0) is None


def test_a_rate_over_models_resamples_images():
  rng = np.random.default_rng(7)
  hits = np.tile(rng.random(100) < 0.3, (6, 1))  # an image hits always or never
  counted = np.ones((6, 100), bool)
  value, low, high = rate(hits, counted, seed=0)
  assert value == hits[0].mean()
  exact = stats.clopper_pearson(int(hits[0].sum()), 100)
  np.testing.assert_allclose([low, high], exact, atol=0.02)
  assert rate(hits & False, counted, seed=0) == [
    0,
    *stats.clopper_pearson(0, 100),
  ]


@pytest.mark.parametrize(
  ("scores", "inside", "options", "message"),
  [
    (np.zeros((2, 3)), np.ones((2, 4), bool), {}, "expected one shape"),
    (np.zeros(3), np.ones(3, bool), {}, r"\[models, images\]"),
    (np.zeros((2, 3)), np.ones((2, 3), bool), {}, "one of its non-members"),
    (np.zeros((2, 3)), np.zeros((2, 3), bool), {}, "one of its members"),
    (np.full((2, 3), np.nan), np.eye(2, 3) > 0, {}, "2 of 2 models.*NaN"),
    (np.zeros((2, 3)), np.eye(2, 3) > 0, {"resamples": 0}, "resamples is 0"),
    (np.zeros((2, 3)), np.eye(2, 3) > 0, {"fprs": (1.0,)}, "fpr is 1"),
  ],
)
def test_bad_input(scores, inside, options, message):
  with pytest.raises(ValueError, match=message):
    stats.pooled(scores, inside, seed=0, **options)

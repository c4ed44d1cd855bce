# SPDX-License-Identifier: Apache-2.0
"""One ROC: against a naive twin, scikit-learn, jax_privacy and coverage."""

import jax_privacy.auditing
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem import stats

small = st.lists(st.integers(-3, 3), min_size=1, max_size=12).map(
  lambda values: np.array(values, np.float64)
)
quick = settings(max_examples=40, deadline=None)


def naive_roc(member, non_member):
  cuts = sorted(set(member) | set(non_member), reverse=True)
  fpr = [0.0] + [np.mean(non_member >= c) for c in cuts]
  tpr = [0.0] + [np.mean(member >= c) for c in cuts]
  return np.array(fpr), np.array(tpr), np.array([np.inf, *cuts])


def naive_auc(member, non_member):
  wins = member[:, None] > non_member
  ties = member[:, None] == non_member
  return np.mean(wins + ties / 2)


def labelled(member, non_member):
  labels = np.r_[np.ones(len(member)), np.zeros(len(non_member))]
  return labels, np.r_[member, non_member]


@pytest.fixture(scope="module")
def scores():
  rng = np.random.default_rng(0)
  return rng.normal(1, 1, 300).round(1), rng.normal(0, 1, 250).round(1)


@quick
@given(small, small)
def test_roc_and_auc_equal_their_naive_twins(member, non_member):
  for got, want in zip(
    stats.roc(member, non_member), naive_roc(member, non_member), strict=True
  ):
    np.testing.assert_allclose(got, want)
  assert stats.auc(member, non_member) == pytest.approx(
    naive_auc(member, non_member)
  )


def test_auc_equals_sklearn_and_jax_privacy(scores):
  auditor = jax_privacy.auditing.CanaryScoreAuditor(*scores)
  assert stats.auc(*scores) == pytest.approx(
    sklearn.metrics.roc_auc_score(*labelled(*scores))
  )
  # That one randomises between thresholds: its curve is the convex hull.
  assert stats.auc(*scores) < auditor.attack_auroc()
  assert stats.auc(*scores) == pytest.approx(auditor.attack_auroc(), abs=0.01)
  assert stats.best_accuracy(*scores) == pytest.approx(
    auditor.max_accuracy(prevalence=0.5)
  )


def test_auc_equals_jax_privacy_where_the_curve_is_its_own_hull():
  member = np.repeat([3.0, 2.0, 1.0], [60, 30, 10])
  non_member = np.repeat([3.0, 2.0, 1.0], [10, 30, 60])
  auditor = jax_privacy.auditing.CanaryScoreAuditor(member, non_member)
  want = auditor.attack_auroc()
  assert stats.auc(member, non_member) == pytest.approx(want)
  for x in (0.1, 0.4):
    want = auditor.tpr_at_given_fpr(x)
    assert stats.tpr_at(member, non_member, x) == pytest.approx(want)


def test_tpr_is_the_last_point_with_fpr_at_most_x(scores):
  auditor = jax_privacy.auditing.CanaryScoreAuditor(*scores)
  fpr, tpr, _ = naive_roc(*scores)
  for x in (0.004, 0.01, 0.1, 0.5):
    want = max(t for f, t in zip(fpr, tpr, strict=True) if f <= x)
    assert stats.tpr_at(*scores, x) == want
    # Randomising between two thresholds can only do better.
    assert want <= auditor.tpr_at_given_fpr(x) + 1e-12


def test_a_point_at_exactly_x_counts():
  non_member = np.arange(100.0)
  assert stats.tpr_at(np.array([99.0, 98.5, 98.0]), non_member, 0.01) == 2 / 3
  assert stats.tpr_at(np.array([99.0, 98.5, 98.0]), non_member, 0.02) == 1.0


def test_unresolvable_is_none_not_a_number():
  member, non_member = np.ones(10), np.zeros(599)
  assert stats.tpr_at(member, non_member, 0.001) is None
  assert stats.tpr_at(member, np.zeros(1000), 0.001) == 1.0
  found = stats.summary(member, non_member, seed=0, resamples=10)
  assert found["tpr@0.001"] is None
  assert found["tpr@0.01"] is not None
  assert stats.interval(member, non_member, fpr=0.001, seed=0) is None


@quick
@given(small, small, st.randoms(use_true_random=False))
def test_order_does_not_matter_nor_does_a_monotone_transform(a, b, random):
  shuffled = np.array(random.sample(list(a), len(a)))
  for fn in (stats.auc, stats.best_accuracy):
    assert fn(a, b) == fn(shuffled, b)
    assert fn(a, b) == fn(np.exp(a) - 7, np.exp(b) - 7)
  for x in (0.1, 0.5):
    assert stats.tpr_at(a, b, x) == stats.tpr_at(3 * shuffled + 1, 3 * b + 1, x)
  assert stats.auc(a, b) == pytest.approx(1 - stats.auc(b, a))


def test_constant_scores_say_nothing():
  found = stats.summary(np.zeros(50), np.zeros(200), seed=0, resamples=50)
  assert found["auc"] == [0.5, 0.5, 0.5]
  assert found["tpr@0.01"][0] == 0.0
  assert stats.best_accuracy(np.zeros(5), np.zeros(9)) == 0.5


def test_resamples_equal_a_naive_bootstrap_in_law(scores):
  member, non_member = scores
  rng = np.random.default_rng(1)
  naive = []
  for _ in range(400):
    a = rng.choice(member, member.size)
    b = rng.choice(non_member, non_member.size)
    naive.append([naive_auc(a, b), stats.tpr_at(a, b, 0.1)])
  ends = np.quantile(naive, [0.025, 0.975], axis=0)
  for i, fpr in enumerate((None, 0.1)):
    _, low, high = stats.interval(*scores, fpr=fpr, seed=0)
    spread = ends[1, i] - ends[0, i]
    np.testing.assert_allclose([low, high], ends[:, i], atol=0.2 * spread)


def test_intervals_cover_the_truth():
  rng = np.random.default_rng(2)
  truth = scipy.stats.norm.cdf(1 / np.sqrt(2))
  tpr = scipy.stats.norm.sf(scipy.stats.norm.isf(0.1) - 1)
  covered = np.zeros(2)
  for seed in range(150):
    found = stats.summary(
      rng.normal(1, 1, 120),
      rng.normal(0, 1, 120),
      fprs=(0.1,),
      resamples=200,
      seed=seed,
    )
    for i, (value, want) in enumerate(
      zip(found.values(), (truth, tpr), strict=True)
    ):
      covered[i] += value[1] <= want <= value[2]
  assert covered[0] > 0.88 * 150
  assert covered[1] > 0.85 * 150


def test_random_scores_hold_one_half():
  rng = np.random.default_rng(3)
  held = 0
  for seed in range(60):
    _, low, high = stats.interval(
      rng.normal(size=100), rng.normal(size=80), resamples=200, seed=seed
    )
    held += low <= 0.5 <= high
  assert held >= 51  # of 60 at 95%: fewer has probability 1e-3


def test_a_perfect_separation_is_not_certainty():
  found = stats.summary(np.ones(40), np.zeros(100), seed=0, resamples=20)
  low = stats.clopper_pearson(40, 40)[0]
  assert found["auc"] == [1.0, low, 1.0]
  assert found["tpr@0.01"] == [1.0, low, 1.0]


def test_the_seed_decides_and_chunks_do_not(scores, monkeypatch):
  first = stats.summary(*scores, seed=5, resamples=64)
  assert first == stats.summary(*scores, seed=5, resamples=64)
  assert first != stats.summary(*scores, seed=6, resamples=64)
  assert first["auc"] == list(stats.interval(*scores, seed=5, resamples=64))
  monkeypatch.setattr("diffmem.stats.curves.CELLS", 20_000)
  many = stats.summary(*scores, seed=5, resamples=64)
  np.testing.assert_allclose(many["auc"], first["auc"], atol=0.02)


@pytest.mark.parametrize(
  ("member", "message"),
  [
    (np.array([1.0, np.nan]), "1 of 2 member scores are NaN"),
    (np.array([np.inf]), "1 of 1 member scores are NaN or infinite"),
    (np.zeros(0), r"member scores have shape \(0,\)"),
    (np.zeros((3, 2)), r"member scores have shape \(3, 2\)"),
  ],
)
def test_unusable_scores_are_refused(member, message):
  for fn in (stats.roc, stats.auc, stats.best_accuracy):
    with pytest.raises(ValueError, match=message):
      fn(member, np.zeros(3))
    with pytest.raises(
      ValueError, match=message.replace("member", "non-member")
    ):
      fn(np.zeros(3), member)


def test_unusable_settings_are_refused():
  a = np.arange(4.0)
  with pytest.raises(ValueError, match="fpr is 1"):
    stats.tpr_at(a, a, 1.5)
  with pytest.raises(ValueError, match="level is 95"):
    stats.interval(a, a, level=95.0, seed=0)
  with pytest.raises(ValueError, match="resamples is 0"):
    stats.interval(a, a, resamples=0, seed=0)

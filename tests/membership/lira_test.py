# SPDX-License-Identifier: Apache-2.0
"""LiRA: its definition recomputed, known answers, and what it refuses."""

import functools
import inspect

import jax_privacy.auditing
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from sklearn import datasets

from diffmem import arrays, stats
from diffmem.denoiser import finite_set
from diffmem.diffusion import schedules
from diffmem.membership import lira, loss, matrices, signals

RNG = np.random.default_rng(0)
S, N = 8, 20
MASKS = np.zeros((S, N), bool)
for _j in range(0, S, 2):
  MASKS[_j, RNG.permutation(N)[: N // 2]] = True
  MASKS[_j + 1] = ~MASKS[_j]
LOSSES = RNG.gamma(3, size=(S, N, 4, 2)) + 0.1
TARGET = RNG.gamma(3, size=(N, 4, 2)) + 0.1
normal = scipy.stats.norm


def pooled(phi, used):
  """The fixed spread, by a loop."""
  squares = free = 0
  for i in range(phi.shape[1]):
    values = phi[used[:, i], i]
    squares += np.sum((values - np.mean(values)) ** 2)
    free += len(values) - 1
  return np.sqrt(squares / free)


def twin(target, shadows, variant, variance, form):
  """Image by image, from the definition; target [n], shadows [s n]."""
  phi, others = (-np.log(x) if form == "log" else -x for x in (target, shadows))
  spreads = pooled(others, MASKS), pooled(others, ~MASKS)
  scores = []
  for i in range(N):
    inside, outside = others[MASKS[:, i], i], others[~MASKS[:, i], i]
    s_in, s_out = spreads
    if variance == "example":
      s_in, s_out = np.std(inside, ddof=1), np.std(outside, ddof=1)
    p_in = normal.logpdf(phi[i], inside.mean(), s_in)
    p_out = normal.logpdf(phi[i], outside.mean(), s_out)
    scores.append(
      {
        "online": p_in - p_out,
        "offline": normal.ppf(normal.cdf(phi[i], outside.mean(), s_out)),
        "offline-density": -p_out,
      }[variant]
    )
  return np.array(scores)


@pytest.mark.parametrize("form", ["log", "loss"])
@pytest.mark.parametrize("variance", lira.VARIANCES)
@pytest.mark.parametrize("variant", lira.VARIANTS)
def test_equals_its_definition(variant, variance, form):
  options = dict(variant=variant, variance=variance, statistic=form)
  got = lira.score(TARGET, LOSSES, MASKS, **options)
  flat = TARGET.mean((1, 2)), LOSSES.mean((2, 3))
  expected = twin(*flat, variant, variance, form)
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  np.testing.assert_allclose(
    lira.score(*flat, MASKS, **options), got, rtol=1e-12
  )
  each = lira.score(TARGET, LOSSES, MASKS, augmentations="each", **options)
  expected = [
    twin(TARGET.mean(1)[:, a], LOSSES.mean(2)[..., a], variant, variance, form)
    for a in range(2)
  ]
  np.testing.assert_allclose(each, np.mean(expected, axis=0), rtol=1e-6)


def test_a_matrix_by_hand():
  """One image more spread outside than inside."""
  shadows = -np.array([[1.0, 9], [3, 5], [0, 4], [8, 2]])
  masks = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
  target = -np.array([2.0, 6])
  # Image 0: in 1, 3 (mean 2); out 0, 8 (mean 4). Image 1: in 4, 2; out 9, 5.
  # Pooled: in (2 + 2) / 2 = 2; out (32 + 8) / 2 = 20.
  got = lira.score(target, shadows, masks, statistic="loss")
  constant = np.log(np.sqrt(10))
  expected = [constant + 4 / 40, constant - 9 / 4 + 1 / 40]
  np.testing.assert_allclose(got, expected)
  got = lira.score(target, shadows, masks, statistic="loss", variant="offline")
  np.testing.assert_allclose(got, [-2 / np.sqrt(20), -1 / np.sqrt(20)])


def test_each_side_has_its_own_fixed_variance():
  """Using the spread of IN for OUT as well changes the order."""
  rng = np.random.default_rng(3)
  masks = np.repeat([[True], [False]], 50, axis=0) & np.ones((100, 2), bool)
  phi = np.where(masks, rng.normal(0, 1, masks.shape), 0)
  phi[50:] = rng.normal(-1, 5, (50, 2))
  got = lira.score(
    -np.array([-6.0, 0.0]), -phi, masks, statistic="loss", variance="fixed"
  )
  s_in, s_out = pooled(phi, masks), pooled(phi, ~masks)
  assert s_out > 4 * s_in
  means = phi[:50].mean(0), phi[50:].mean(0)
  right = normal.logpdf([-6, 0], means[0], s_in) - normal.logpdf(
    [-6, 0], means[1], s_out
  )
  np.testing.assert_allclose(got, right)
  wrong = normal.logpdf([-6, 0], means[0], s_in) - normal.logpdf(
    [-6, 0], means[1], s_in
  )
  assert np.abs(got - wrong).max() > 1


def test_one_sided_and_two_sided_differ_where_the_loss_is_too_high():
  shadows = -RNG.normal(size=(40, 3))
  masks = np.zeros((40, 3), bool)
  target = -np.array([0.0, 9.0, -9.0])  # phi = 0, 9, -9
  tail = lira.score(target, shadows, masks, variant="offline", statistic="loss")
  assert tail[2] < tail[0] < tail[1]
  density = lira.score(
    target, shadows, masks, variant="offline-density", statistic="loss"
  )
  assert density[0] < min(density[1:])
  far = -np.array([10.0, 11.0, 12.0])
  values = lira.score(far, shadows, masks, variant="offline", statistic="loss")
  assert len(set(values.tolist())) == 3  # where Phi(z) would be 1, 1, 1


@pytest.fixture(scope="module")
def memorized():
  """Losses [m n] of optimal denoisers of complementary random halves."""
  pixels = datasets.load_digits().images[:80]
  images = np.round(pixels * 255 / 16).astype(np.uint8)[..., None]
  rng = np.random.default_rng(1)
  masks = np.zeros((8, 80), bool)
  for j in range(0, 8, 2):
    masks[j, rng.permutation(80)[:40]] = True
    masks[j + 1] = ~masks[j]
  plain = np.asarray(arrays.from_uint8(images))
  losses = [
    signals.compute(
      finite_set(plain[mask], schedules.linear()),
      images,
      loss.SIGNAL,
      t=(100,),
      draws=2,
      seed=0,
      augment=("identity",),
      progress=False,
    )[:, 0]
    for mask in masks
  ]
  return np.stack(losses), masks


@pytest.mark.parametrize("variant", lira.VARIANTS)
def test_models_that_memorized_all_betray_their_members(memorized, variant):
  losses, masks = memorized
  fn = functools.partial(lira.score, variant=variant)
  scores = matrices.leave_pair_out(fn, losses, masks)
  inside, outside = scores[masks], scores[~masks]
  assert stats.auc(inside, outside) > 0.99
  labels = np.repeat([1, 0], [inside.size, outside.size])
  both = np.concatenate([inside, outside])
  assert sklearn.metrics.roc_auc_score(labels, both) == pytest.approx(
    stats.auc(inside, outside)
  )


def test_rates_agree_with_jax_privacy():
  """Theirs reads the curve's convex hull: at its corners both are equal."""
  noise = np.random.default_rng(2).normal(size=MASKS.shape)
  scores = matrices.leave_pair_out(lira.score, np.exp(noise - MASKS), MASKS)
  inside, outside = scores[MASKS], scores[~MASKS]
  auditor = jax_privacy.auditing.CanaryScoreAuditor(inside, outside)
  corners = (auditor._get_fp_counts() / outside.size)[1:-1]
  assert len(corners) > 3
  for fpr in corners:
    ours = stats.tpr_at(inside, outside, fpr + 1e-9)
    assert ours == pytest.approx(auditor.tpr_at_given_fpr(fpr))


def one_pair():
  masks = np.array([[True] * 3, [False] * 3])
  return np.ones(3) + np.arange(3), RNG.uniform(1, 2, (2, 3)), masks


def test_one_model_a_side_is_enough_for_the_order():
  target, shadows, masks = one_pair()
  got = lira.score(target, shadows, masks, variant="offline")
  np.testing.assert_allclose(got, np.log(shadows[1]) - np.log(target))
  for variant in ("online", "offline-density"):
    with pytest.raises(ValueError, match="no spread can be told, train more"):
      lira.score(target, shadows, masks, variant=variant)
  with pytest.raises(ValueError, match="OUT fewer than 2 of the 2 shadow"):
    lira.score(target, shadows, masks, variant="offline", variance="example")


def test_bad_input():
  bad = LOSSES.copy()
  bad[1, 2] = np.nan
  flat = LOSSES.mean((2, 3))
  masks = MASKS.copy()
  masks[:, 4] = True
  masks[:, 5] = False
  cases = (
    ((TARGET, bad, MASKS), {}, "8 of 1280 shadow values are NaN"),
    ((TARGET * np.inf, LOSSES, MASKS), {}, "160 of 160 target values are NaN"),
    ((TARGET * 0, LOSSES, MASKS), {}, "all 160 target values are 0: constant"),
    ((TARGET, LOSSES * 0 + 2, MASKS), {}, "all 1280 shadow values are 2"),
    ((TARGET, LOSSES, masks), {}, "1 of 20 images are IN fewer than 1 of"),
    ((TARGET, LOSSES, masks), {"variant": "offline"}, "are OUT fewer than 1"),
    ((TARGET[:9], LOSSES, MASKS), {}, r"target have shape \(9, 4, 2\)"),
    ((TARGET, LOSSES, MASKS[:, :9]), {}, "are they of this split"),
    ((TARGET, LOSSES, MASKS[:7]), {}, "one mask for each model and image"),
    ((TARGET, LOSSES, MASKS), {"variant": "on"}, "variant 'on': choose one of"),
    ((TARGET, LOSSES, MASKS), {"variance": "x"}, "variance 'x': choose"),
    ((TARGET, LOSSES, MASKS), {"augmentations": "x"}, "augmentations 'x'"),
    (
      (flat[0], np.repeat(flat[:1], S, axis=0), MASKS),
      {"variance": "example"},
      "20 of 20 images have the same loss under all",
    ),
  )
  for given, options, message in cases:
    with pytest.raises(ValueError, match=message) as error:
      inspect.unwrap(lira.score)(*given, **options)
    assert "\n" not in str(error.value)

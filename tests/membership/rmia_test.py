# SPDX-License-Identifier: Apache-2.0
"""RMIA: its definition recomputed, ties, and populations that break it."""

import functools

import numpy as np
import pytest
from sklearn import datasets

from diffmem import arrays, stats
from diffmem.denoiser import finite_set
from diffmem.diffusion import schedules
from diffmem.membership import loss, matrices, rmia, signals

RNG = np.random.default_rng(0)
S, N, Z = 6, 12, 9
MASKS = np.zeros((S, N), bool)
for _j in range(0, S, 2):
  MASKS[_j, RNG.permutation(N)[: N // 2]] = True
  MASKS[_j + 1] = ~MASKS[_j]
LOSSES, TARGET = RNG.gamma(3, size=(S, N)), RNG.gamma(3, size=N)
OTHERS = RNG.gamma(3, size=Z), RNG.gamma(3, size=(S, Z)), np.zeros((S, Z), bool)


def ratio(i, target, losses, masks, variant, a, form, scale):
  """p(x | theta) / p(x) in plain numbers."""

  def p(loss):
    return np.exp(-scale * loss) if form == "loss" else loss**-scale

  out = np.mean([p(losses[s, i]) for s in range(S) if not masks[s, i]])
  if variant == "online":
    inside = np.mean([p(losses[s, i]) for s in range(S) if masks[s, i]])
    return p(target[i]) / ((inside + out) / 2)
  return p(target[i]) / ((1 + a) / 2 * out + (1 - a) / 2)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.7])
@pytest.mark.parametrize(
  ("variant", "a", "form", "scale"),
  [
    ("online", 1.0, "log", 1.0),
    ("online", 1.0, "loss", 2.0),
    ("offline", 1.0, "log", 0.7),
    ("offline", 0.3, "loss", 1.0),
  ],
)
def test_equals_its_definition(variant, a, form, scale, gamma):
  options = dict(variant=variant, a=a, statistic=form, scale=scale)
  arguments = variant, a, form, scale
  own = [ratio(i, TARGET, LOSSES, MASKS, *arguments) for i in range(N)]
  got = rmia.score(TARGET, LOSSES, MASKS, gamma=gamma, **options)
  np.testing.assert_allclose(got, np.log(own), rtol=1e-9)
  got = rmia.score(
    TARGET, LOSSES, MASKS, population="pool", gamma=gamma, **options
  )
  expected = [
    np.mean([own[i] / own[j] > gamma for j in range(N) if j != i])
    for i in range(N)
  ]
  np.testing.assert_array_equal(got, expected)
  if variant == "online":
    return
  others = [ratio(i, *OTHERS, *arguments) for i in range(Z)]
  got = rmia.score(
    TARGET, LOSSES, MASKS, population=OTHERS, gamma=gamma, **options
  )
  expected = [np.mean([x / z > gamma for z in others]) for x in own]
  np.testing.assert_array_equal(got, expected)
  finer = rmia.score(
    TARGET,
    LOSSES,
    MASKS,
    population=OTHERS,
    gamma=gamma,
    break_ties=True,
    **options,
  )
  order = np.lexsort((own, expected))
  np.testing.assert_array_equal(np.argsort(finer), order)
  assert 0 < finer.min() < finer.max() < 1


def test_losses_too_large_for_plain_numbers():
  """exp(-loss) is 0 in floating point, its ratios are not."""
  shift = 5000.0
  options = dict(statistic="loss", population="pool")
  got = rmia.score(TARGET + shift, LOSSES + shift, MASKS, **options)
  np.testing.assert_array_equal(
    got, rmia.score(TARGET, LOSSES, MASKS, **options)
  )
  assert len(set(got.tolist())) == N


def test_a_population_in_no_shadow_collapses_the_online_form():
  """Non-members then tie at 0; so it is refused."""
  rng = np.random.default_rng(2)
  n = 200
  masks = np.zeros((8, n), bool)
  for j in range(0, 8, 2):
    masks[j, rng.permutation(n)[: n // 2]] = True
    masks[j + 1] = ~masks[j]
  losses = np.where(masks, 0.05, 1.0) * np.exp(rng.normal(0, 0.1, masks.shape))
  inside = np.arange(n) < n // 2
  target = np.where(inside, 0.05, 1.0) * np.exp(rng.normal(0, 0.1, n))
  z = (
    np.exp(rng.normal(0, 0.1, 100)),
    np.exp(rng.normal(0, 0.1, (8, 100))),
    np.zeros((8, 100), bool),
  )
  with pytest.raises(ValueError, match="100 of 100 images are IN fewer than 1"):
    rmia.score(target, losses, masks, population=z)
  online = rmia.log_ratio(target, losses, masks)
  out_only = rmia.log_ratio(*z, variant="offline")
  collapsed = np.mean(online[~inside, None] > out_only, axis=1)
  assert np.mean(collapsed == 0) > 0.9
  fair = rmia.score(target, losses, masks, variant="offline", population=z)
  assert np.mean(fair[~inside] == 0) < 0.1
  assert stats.auc(fair[inside], fair[~inside]) == 1.0


def test_members_tie_at_one_unless_told_apart():
  rng = np.random.default_rng(4)
  target = TARGET * np.where(np.arange(N) < 6, 1e-4, 1)
  target[:6] *= np.exp(rng.normal(size=6))
  options = dict(variant="offline", population=OTHERS)
  shares = rmia.score(target, LOSSES, MASKS, **options)
  np.testing.assert_array_equal(shares[:6], 1)
  finer = rmia.score(target, LOSSES, MASKS, break_ties=True, **options)
  assert len(set(finer.tolist())) == N
  assert np.all(finer[:6] > finer[6:].max())
  pool = rmia.score(target, LOSSES, MASKS, population="pool")
  assert np.count_nonzero(pool == 1) == 1  # itself is no rival
  assert np.count_nonzero(pool == 0) == 1


def test_models_that_memorized_all_betray_their_members():
  pixels = datasets.load_digits().images[:80]
  images = np.round(pixels * 255 / 16).astype(np.uint8)[..., None]
  rng = np.random.default_rng(1)
  masks = np.zeros((6, 60), bool)
  for j in range(0, 6, 2):
    masks[j, rng.permutation(60)[:30]] = True
    masks[j + 1] = ~masks[j]
  plain = np.asarray(arrays.from_uint8(images))
  losses = np.stack(
    [
      signals.compute(
        finite_set(plain[:60][mask], schedules.linear()),
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
  )
  pool, z = losses[:, :60], losses[:, 60:]
  for options in ({}, {"variant": "offline"}, {"population": "pool"}):
    fn = functools.partial(rmia.score, **options)
    scores = matrices.leave_pair_out(fn, pool, masks)
    assert stats.auc(scores[masks], scores[~masks]) > 0.99
  population = z[0], z[2:], np.zeros((4, 20), bool)
  for break_ties, low, high in ((False, 0.85, 0.97), (True, 0.99, 1.0)):
    scores = rmia.score(
      pool[0],
      pool[2:],
      masks[2:],
      variant="offline",
      population=population,  # 20 images: many a non-member passes them all
      break_ties=break_ties,
    )
    assert low <= stats.auc(scores[masks[0]], scores[~masks[0]]) <= high


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"variant": "both"}, "variant 'both': choose one of online, offline"),
    ({"population": "pol"}, "population 'pol' for 12 images"),
    ({"gamma": 0.0}, "gamma = 0.0: expected more than 0"),
    ({"a": 0.5}, "only the offline form with statistic='loss'"),
    ({"a": 1.5}, "a = 1.5, scale = 1.0: expected"),
    ({"scale": 0.0}, "scale = 0.0: expected"),
    ({"statistic": "x"}, "statistic 'x'"),
  ],
)
def test_bad_options(options, message):
  with pytest.raises(ValueError, match=message):
    rmia.score(TARGET, LOSSES, MASKS, **options)


def test_bad_losses():
  bad = LOSSES.copy()
  bad[0, 0] = np.nan
  with pytest.raises(ValueError, match="1 of 72 shadow values are NaN"):
    rmia.score(TARGET, bad, MASKS)
  with pytest.raises(ValueError, match="12 of 12 images are OUT fewer than 1"):
    rmia.score(TARGET, LOSSES, MASKS | True)

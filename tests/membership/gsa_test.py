# SPDX-License-Identifier: Apache-2.0
"""The gradient attack: what it learns from, and from whom."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from diffmem import stats
from diffmem.denoiser import Denoiser
from diffmem.diffusion import schedules
from diffmem.membership import gradients, gsa, matrices, queries, signals

RNG = np.random.default_rng(0)


def halves(pairs, n, rng):
  rows = []
  for _ in range(pairs):
    row = np.zeros(n, bool)
    row[rng.permutation(n)[: n // 2]] = True
    rows += [row, ~row]
  return np.array(rows)


def test_features():
  norms = RNG.gamma(1, size=(4, 5, 3, 2))
  got = gsa.features(norms)
  np.testing.assert_allclose(got, np.log(norms.mean(2)))
  assert np.isfinite(gsa.features(np.zeros((1, 1, 2)))).all()


def test_log_odds_of_a_regression_scaled_by_the_shadows():
  masks = halves(2, 30, RNG)
  shadows = RNG.normal(size=(4, 30, 3)) - 1.5 * masks[..., None] + 7
  target = RNG.normal(size=(30, 3)) * 5
  got = gsa.score(target, shadows, masks)
  x = shadows.reshape(-1, 3)
  mean, spread = x.mean(0), x.std(0)
  model = LogisticRegression(max_iter=2000)
  model.fit((x - mean) / spread, masks.ravel())
  expected = (target - mean) / spread @ model.coef_[0] + model.intercept_
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  # Scaled by its own images, the target's mean would not matter.
  moved = gsa.score(target + 1.0, shadows, masks)
  assert np.all(moved < got)


def test_noise_tells_nothing():
  rng = np.random.default_rng(1)
  masks = halves(3, 400, rng)
  noise = rng.normal(size=(6, 400, 4)) + rng.normal(size=(400, 4))
  scores = matrices.leave_pair_out(gsa.score, noise, masks)
  assert abs(stats.auc(scores[masks], scores[~masks]) - 0.5) < 0.04
  moved = noise - 2.0 * masks[..., None]
  scores = matrices.leave_pair_out(gsa.score, moved, masks)
  assert stats.auc(scores[masks], scores[~masks]) > 0.9


def test_trees_see_what_is_not_linear():
  rng = np.random.default_rng(2)
  masks = halves(2, 300, rng)
  values = rng.normal(size=(4, 300, 2)) * np.where(masks, 0.1, 1.0)[..., None]
  given = values[0], values[2:], masks[2:]
  line, trees = (
    stats.auc(scores[masks[0]], scores[~masks[0]])
    for scores in (gsa.score(*given, classifier=c) for c in gsa.CLASSIFIERS)
  )
  assert trees > 0.9
  assert trees > line + 0.2


def test_models_that_memorized_all_betray_their_members():
  """Linear denoisers with more weights than noised members: fitted exactly."""
  rng = np.random.default_rng(3)
  shape, d, t = (6, 6, 1), 36, 300
  schedule = schedules.linear()
  images = rng.uniform(-1, 1, (20, *shape)).astype(np.float32)
  masks = halves(3, 20, rng)
  ab = schedule.alpha_bar[t]
  eps = np.stack([queries.noise(0, t, j, shape).ravel() for j in range(3)])

  def apply(params, x, t, cond):
    return (x.reshape(len(x), -1) @ params["A"]).reshape(x.shape)

  found = []
  for mask in masks:
    flat = images[mask].reshape(-1, 1, d)
    x_t = np.sqrt(ab) * flat + np.sqrt(1 - ab) * eps
    wanted = np.broadcast_to(eps, x_t.shape).reshape(-1, d)
    solved = np.linalg.lstsq(x_t.reshape(-1, d), wanted, rcond=None)[0]
    model = Denoiser(
      apply=apply,
      params={"A": jnp.asarray(solved, jnp.float32)},
      schedule=schedule,
      shape=shape,
    )
    norms = signals.compute(
      model,
      images,
      gradients.SIGNAL,
      t=(t,),
      draws=3,
      seed=0,
      norms="mean",
      progress=False,
    )
    found.append(gsa.features(norms))
  scores = matrices.leave_pair_out(gsa.score, np.stack(found), masks)
  assert stats.auc(scores[masks], scores[~masks]) > 0.99


def test_bad_input():
  masks = halves(2, 9, RNG)
  shadows, target = RNG.normal(size=(4, 9, 2)), RNG.normal(size=(9, 2))
  score = inspect.unwrap(gsa.score)
  with pytest.raises(ValueError, match="images are members of all 4 shadow"):
    score(target, shadows, masks | True)
  with pytest.raises(ValueError, match="images are non-members of all"):
    score(target, shadows, masks & False)
  with pytest.raises(ValueError, match="18 of 18 target values are NaN"):
    score(target * np.nan, shadows, masks)
  with pytest.raises(ValueError, match="classifier 'net': choose one of"):
    score(target, shadows, masks, classifier="net")
  with pytest.raises(ValueError, match="expected one mask for each"):
    score(target, shadows, masks[:3])

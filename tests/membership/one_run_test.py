# SPDX-License-Identifier: Apache-2.0
"""One-run audits: published values, coverage, and jax_privacy's twin."""

import inspect
import math

import jax_privacy.auditing
import numpy as np
import pytest

from diffmem.membership import one_run


def test_golden_values():
  assert one_run.p_value(100, 100, 75, math.log(3)) == pytest.approx(
    0.5535, abs=5e-5
  )
  for m, r, v, delta, expected in (
    (1000, 100, 75, 1e-4, 0.673),
    (1000, 100, 100, 0.0, 3.493),
    (25000, 250, 250, 0.0, 4.418),
  ):
    got = one_run.epsilon_lower(m, r, v, delta=delta)
    assert got == pytest.approx(expected, abs=5e-4)
    assert one_run.p_value(m, r, v, got, delta) == pytest.approx(0.05)


@pytest.mark.parametrize("delta", [0.0, 1e-3])
def test_p_value_by_summation(delta):
  m, r, epsilon = 60, 20, 0.8
  q = math.exp(epsilon) / (1 + math.exp(epsilon))
  mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
  for v in (0, 1, 12, 20):
    beta = sum(mass[v:])
    alpha = max((sum(mass[v - i : v]) / i for i in range(1, v + 1)), default=0)
    expected = min(1.0, beta + 2 * m * delta * alpha)
    got = one_run.p_value(m, r, v, epsilon, delta)
    assert got == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
  ("m", "r", "v", "delta"),
  [(500, 100, 80, 1e-5), (500, 500, 300, 1e-3), (90, 30, 30, 0.0)],
)
def test_equals_jax_privacy(m, r, v, delta):
  theirs = jax_privacy.auditing._epsilon_one_run(0.0, m, r, v, 0.05, delta)
  ours = one_run.epsilon_lower(m, r, v, delta=delta)
  assert ours == pytest.approx(theirs, abs=1e-4)
  for epsilon in (0.1, 1.0, 3.0):
    assert one_run.p_value(m, r, v, epsilon, delta) == pytest.approx(
      jax_privacy.auditing._one_run_p_value(m, r, v, epsilon, delta)
    )


def test_nothing_is_refuted_by_chance_more_often_than_stated():
  """Randomized response is exactly epsilon-private."""
  epsilon, m, runs = 1.0, 200, 1000
  rng = np.random.default_rng(0)
  inside = rng.random((runs, m)) < 0.5
  kept = rng.random((runs, m)) < 1 / (1 + math.exp(-epsilon))
  scores = np.where(kept, inside, ~inside) + 0.5 * rng.random((runs, m))
  p = np.array(
    [
      one_run.p_value(m, 60, one_run.count(s, i, 60), epsilon)
      for s, i in zip(scores, inside, strict=True)
    ]
  )
  # p is discrete: below 5%, and not far below; standard deviation .7%
  assert 0.01 < np.mean(p < 0.05) < 0.072
  pairs = list(zip(scores, inside, strict=True))[:50]
  bounds = [
    one_run.audit(s, i, delta=0.0, seed=k)["epsilon"]
    for k, (s, i) in enumerate(pairs)
  ]
  assert np.sum(np.array(bounds) > epsilon) <= 8  # 2.5 expected at most
  assert np.median(bounds) > 0.3


def test_scores_that_tell_and_that_do_not():
  rng = np.random.default_rng(1)
  inside = rng.random(1000) < 0.5
  noise = one_run.audit(rng.normal(size=1000), inside)
  assert noise["epsilon"] < 0.3
  assert noise["in_alone"] < 0.5
  sharp = one_run.audit(rng.normal(size=1000) + 8 * inside, inside)
  assert sharp["images"] == 700
  assert sharp["chosen_on"] == 300
  assert sharp["correct"] == sharp["guesses"] == 350
  assert sharp["epsilon"] == pytest.approx(
    one_run.epsilon_lower(700, 350, 350, delta=1e-5)
  )
  assert 3 < sharp["in_alone"] < 6
  again = one_run.audit(rng.normal(size=1000) + 8 * inside, inside, delta=0.0)
  assert again["epsilon"] > sharp["epsilon"]
  assert again["in_alone"] is None
  assert one_run.rates(rng.normal(size=1000) + 8 * inside, inside) > 3
  assert one_run.rates(rng.normal(size=1000), inside) < 0.5


def test_counting_guesses():
  scores = np.array([0.1, 0.9, 0.5, 0.8, 0.2, 0.3])
  inside = np.array([True, True, False, False, False, True])
  # high: 1 (in), 3 (out), 2 (out); low: 0 (in), 4 (out), 5 (in)
  for guesses, outside, right in (
    (2, 0.5, 1),
    (4, 0.5, 2),
    (6, 0.5, 2),
    (2, 0.0, 1),
    (3, 1.0, 1),
    (2, 1.0, 1),
  ):
    assert one_run.count(scores, inside, guesses, outside=outside) == right


def test_bad_input():
  rng = np.random.default_rng(2)
  inside = rng.random(200) < 0.5
  scores = rng.normal(size=200)
  audit = inspect.unwrap(one_run.audit)
  with pytest.raises(ValueError, match="200 of 200 images were in training: "):
    audit(scores, inside | True)
  with pytest.raises(ValueError, match="200 of 200 scores are NaN"):
    audit(scores * np.nan, inside)
  with pytest.raises(ValueError, match=r"\(200,\) scores for \(9,\)"):
    audit(scores, inside[:9])
  with pytest.raises(
    ValueError, match=r"outside = 2.0, delta = 1e-05: expected"
  ):
    audit(scores, inside, outside=2.0)
  with pytest.raises(ValueError, match=r"part is 1.0"):
    audit(scores, inside, part=1.0)
  with pytest.raises(ValueError, match="significance is 0"):
    audit(scores, inside, significance=0.0)
  with pytest.raises(ValueError, match="9 right of 8 guesses on 20 images"):
    one_run.p_value(20, 8, 9, 1.0)
  with pytest.raises(ValueError, match=r"epsilon = -1.0, delta = 0.0"):
    one_run.p_value(20, 8, 7, -1.0)

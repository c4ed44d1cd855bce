# SPDX-License-Identifier: Apache-2.0
"""How much privacy one training run can at most have: epsilon lower bounds.

m images were put in training or left out by independent fair coins (split
"bernoulli"). An attack guesses the r it is surest of: "in" for the highest
scores, "out" for the lowest, and is right on v of them. If training were
(epsilon, delta)-private, then P[at least v right] would be at most

  p = beta + 2 m delta alpha,   q = 1 / (1 + e^-epsilon),
  beta = P[B >= v],   alpha = max_{1 <= i <= v} P[v > B >= v - i] / i,

B ~ Binomial(r, q). The lower bound on epsilon is the largest one that this
refutes, p < significance. Steinke, Nasr, Jagielski, "Privacy Auditing with
One (1) Training Run", 2023, theorem 5.2. How many to guess is chosen on other
images than those that the bound is taken from.

jax_privacy has the same bound for guesses of "in" alone and delta > 0, and
bounds from rates (`rates`): those hold for independent trainings, while of
one model they are an estimate.
"""

from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

from diffmem.arrays import AnyArray, Bool, Float
from diffmem.stats.rates import check_share

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the images, guessed


def p_value(
  m: int, guesses: int, correct: int, epsilon: float, delta: float = 0.0
) -> float:
  """How likely so many right guesses are at most, if training is private.

  Args:
    m: images whose inclusion was a coin.
    guesses: how many of them were guessed, r.
    correct: how many guesses were right, v.
    epsilon, delta: the claim, epsilon >= 0 and 0 <= delta < 1.

  Raises:
    ValueError: counts or a claim that cannot be.
  """
  if not 0 <= correct <= guesses <= m or not m:
    raise ValueError(
      f"{correct} right of {guesses} guesses on {m} images: expected "
      "0 <= right <= guesses <= images, and 1 image or more"
    )
  if not epsilon >= 0 or not 0 <= delta < 1:
    raise ValueError(
      f"epsilon = {epsilon}, delta = {delta}: expected epsilon >= 0 and "
      "0 <= delta < 1"
    )
  q = scipy.special.expit(epsilon)
  beta = scipy.stats.binom.sf(correct - 1, guesses, q)
  if not delta or not correct:
    return float(min(beta, 1.0))
  i = np.arange(1, correct + 1)
  between = scipy.stats.binom.sf(correct - i - 1, guesses, q) - beta
  return float(min(beta + 2 * m * delta * np.max(between / i), 1.0))


def epsilon_lower(
  m: int,
  guesses: int,
  correct: int,
  *,
  delta: float,
  significance: float = 0.05,
) -> float:
  """The largest epsilon refuted at this significance; 0 if none is.

  Arguments and errors as in `p_value`. It holds for counts fixed in advance.
  """
  check_share("significance", significance)

  def excess(epsilon: float) -> float:
    return p_value(m, guesses, correct, epsilon, delta) - significance

  if excess(0.0) >= 0:
    return 0.0
  high = 1.0
  while excess(high) < 0:
    high *= 2
  root: Any = scipy.optimize.brentq(excess, 0.0, high, xtol=1e-9)
  return float(root)


def count(
  scores: Float[AnyArray, " m"],
  inside: Bool[np.ndarray, " m"],
  guesses: int,
  *,
  outside: float = 0.5,
) -> int:
  """Right guesses: the highest scores "in", a share `outside` lowest "out".

  Equal scores at the edge are taken in the order of the images.
  """
  lowest = round(guesses * outside)
  order = np.argsort(np.asarray(scores), kind="stable")
  below, above = order[:lowest], order[len(order) - (guesses - lowest) :]
  return int(np.sum(~inside[below]) + np.sum(inside[above]))


def audit(
  scores: Float[AnyArray, " m"],
  inside: Bool[np.ndarray, " m"],
  *,
  delta: float = 1e-5,
  significance: float = 0.05,
  outside: float = 0.5,
  part: float = 0.3,
  seed: int = 0,
) -> dict[str, Any]:
  """The epsilon lower bound from one model's scores.

  Args:
    scores: of an attack that was told nothing of these images' membership;
      higher means member.
    inside: which were in training, each by an independent fair coin.
    delta, significance: of the bound.
    outside: share of the guesses that are "out"; 0: guesses of "in" alone.
    part: share of the images on which the number of guesses is chosen; they
      then count as known, the bound is about the rest.
    seed: of the division.

  Returns:
    "epsilon", the counts behind it ("images", "guesses", "correct"), what was
    asked, and "in_alone", jax_privacy's bound from guesses of "in" alone (its
    own division of the same size), None for delta = 0.

  Raises:
    ValueError: scores that are not finite, too few images, inclusion that no
      fair coin explains (p < 1e-6), or options that cannot be.
  """
  scores, inside = np.asarray(scores, np.float64), np.asarray(inside)
  _check(scores, inside)
  check_options(
    delta=delta, significance=significance, outside=outside, part=part
  )
  order = np.random.default_rng(seed).permutation(len(scores))
  cut = max(int(len(scores) * part), 1)
  known, rest = order[:cut], order[cut:]

  def bound(rows: np.ndarray, share: float) -> tuple[float, int, int]:
    guesses = max(1, int(len(rows) * share))
    right = count(scores[rows], inside[rows], guesses, outside=outside)
    options = dict(delta=delta, significance=significance)
    return (
      epsilon_lower(len(rows), guesses, right, **options),
      guesses,
      right,
    )

  share = max(SHARES, key=lambda s: bound(known, s)[0])
  epsilon, guesses, right = bound(rest, share)
  in_alone = None
  if delta > 0:
    from jax_privacy import auditing  # seconds to import

    in_alone = _auditor(scores, inside).epsilon_one_run(
      significance,
      delta,
      threshold_strategy=auditing.Split(part, seed),
    )
  return {
    "epsilon": epsilon,
    "images": len(rest),
    "guesses": guesses,
    "correct": right,
    "delta": delta,
    "significance": significance,
    "chosen_on": len(known),
    "in_alone": None if in_alone is None else float(in_alone),
  }


def rates(
  scores: Float[AnyArray, " m"],
  inside: Bool[np.ndarray, " m"],
  *,
  delta: float = 1e-5,
  significance: float = 0.05,
  seed: int = 0,
) -> float:
  """An epsilon from TPR and FPR with Clopper-Pearson limits, by jax_privacy.

  The threshold is chosen on one half of the images and used on the other
  (Jagielski, Ullman, Oprea 2020; Nasr et al. 2021). A bound where scores are
  independent given membership, as of models trained apart; of images of one
  model it is an estimate, since they were trained on together.
  """
  from jax_privacy import auditing

  scores, inside = np.asarray(scores, np.float64), np.asarray(inside)
  _check(scores, inside)
  return float(
    _auditor(scores, inside).epsilon_clopper_pearson(
      significance, delta, threshold_strategy=auditing.Split(seed=seed)
    )
  )


def _auditor(scores, inside):
  from jax_privacy import auditing

  return auditing.CanaryScoreAuditor(scores[inside], scores[~inside])


def check_options(
  *, delta: float, significance: float, outside: float, part: float
) -> None:
  """ValueError for options of `audit` that cannot be."""
  check_share("significance", significance)
  check_share("part", part)
  if not 0 <= outside <= 1 or not 0 <= delta < 1:
    raise ValueError(
      f"outside = {outside}, delta = {delta}: expected outside 0 to 1, and "
      "delta 0 or more, less than 1"
    )


def _check(scores, inside) -> None:
  if scores.ndim != 1 or inside.shape != scores.shape or len(scores) < 4:
    raise ValueError(
      f"{scores.shape} scores for {inside.shape} inclusions: expected one each "
      "of 4 images or more"
    )
  bad = int(np.count_nonzero(~np.isfinite(scores)))
  if bad:
    raise ValueError(f"{bad} of {scores.size} scores are NaN or infinite")
  n, n_in = len(inside), int(inside.sum())
  if scipy.stats.binomtest(n_in, n).pvalue < 1e-6:
    raise ValueError(
      f"{n_in} of {n} images were in training: no fair coin gives that; use "
      "data.split.name='bernoulli'"
    )

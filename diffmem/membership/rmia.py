# SPDX-License-Identifier: Apache-2.0
"""RMIA: does the model favour x over other images more than models do?

  log p(x | theta) = scale * phi(x, theta),  phi = -log loss or -loss
  R(x) = p(x | theta) / p(x)
  score(x) = share of z with R(x) / R(z) > gamma

p(x) is the mean of p(x | theta') over shadow models,

  online   half IN, half OUT: (mean_IN + mean_OUT) / 2
  offline  OUT alone: (1 + a) / 2 mean_OUT + (1 - a) / 2; a = 1 is mean_OUT,
           smaller a makes up for the missing IN, where p lies in [0, 1]

Since R(x) / R(z) > gamma just when log R(x) - log gamma > log R(z), the share
is a place among the sorted R(z): no table of n times z is made. For one model
it is an increasing function of R(x), with ties: whoever passes all z gets 1,
and only as many scores as there are z can differ. Without a population the
score is log R(x) itself, which has no such ties.

A population that no shadow was trained on has only OUT in its p(z): against
the online p(x) it does not compare like with like (all R(z) come out too
high, the scores of non-members collapse to 0), so it needs "offline". A
population of pool images, whose membership need not be known, is
`population="pool"`: each image against all others but itself.

Zarifzadeh et al., "Low-Cost High-Power Membership Inference Attacks", 2024.
"""

from typing import Any

import numpy as np
import scipy.special

from diffmem.arrays import AnyArray, Bool, Float
from diffmem.membership import matrices

VARIANTS = ("online", "offline")
Population = tuple[np.ndarray, np.ndarray, np.ndarray]


def score(
  target: Float[AnyArray, "n *rest"],
  shadows: Float[AnyArray, "s n *rest"],
  masks: Bool[np.ndarray, "s n"],
  *,
  variant: str = "online",
  population: str | Population | None = None,
  gamma: float = 1.0,
  a: float = 1.0,
  statistic: str = "log",
  scale: float = 1.0,
  break_ties: bool = False,
) -> Float[np.ndarray, " n"]:
  """Scores of images under one model; higher means member.

  Args:
    target: losses under the model, [n], [n draws] or [n draws augmentations];
      draws and augmentations are averaged first.
    shadows: the same losses under each shadow model.
    masks: whether shadow s was trained on image n.
    variant: one of VARIANTS.
    population: None: log R(x); "pool": the images themselves; or a tuple
      (target [z ..], shadows [s z ..], masks [s z]) of other images, best
      non-members, under the same models.
    gamma: how many times R(x) must exceed R(z).
    a: of the offline form; other than 1 needs statistic="loss".
    statistic: one of `matrices.FORMS`.
    scale: of log p, above 0.
    break_ties: order equal shares by R(x), within one step of the share.

  Raises:
    ValueError: an image is IN or OUT of too few models, a loss is not finite,
      losses do not vary, options or shapes disagree.
  """
  options: dict[str, Any] = dict(
    variant=variant, a=a, statistic=statistic, scale=scale
  )
  ratio = log_ratio(target, shadows, masks, **options)
  if not gamma > 0:
    raise ValueError(f"gamma = {gamma}: expected more than 0")
  if population is None:
    return ratio
  bar = ratio - np.log(gamma)
  if isinstance(population, str):
    if population != "pool" or len(ratio) < 2:
      raise ValueError(
        f"population {population!r} for {len(ratio)} images: expected None, "
        "'pool' with 2 images or more, or losses and masks of other images"
      )
    others, own = ratio, bar > ratio
  else:
    others = log_ratio(*population, **options)
    own = np.zeros(len(bar), bool)
  size = len(others) - isinstance(population, str)
  above = np.searchsorted(np.sort(others), bar, side="left") - own
  if not break_ties:
    return above / size
  squashed = 0.5 + 0.5 * ratio / (1 + np.abs(ratio))  # 0..1, increasing
  return (above + squashed) / (size + 1)


def log_ratio(
  target: Float[AnyArray, "n *rest"],
  shadows: Float[AnyArray, "s n *rest"],
  masks: Bool[np.ndarray, "s n"],
  *,
  variant: str = "online",
  a: float = 1.0,
  statistic: str = "log",
  scale: float = 1.0,
) -> Float[np.ndarray, " n"]:
  """Log R(x) = log p(x | theta) - log p(x); arguments as in `score`."""
  if variant not in VARIANTS:
    raise ValueError(
      f"variant {variant!r}: choose one of {', '.join(VARIANTS)}"
    )
  if not 0 <= a <= 1 or not scale > 0:
    raise ValueError(
      f"a = {a}, scale = {scale}: expected 0 <= a <= 1 and scale > 0"
    )
  if a != 1 and (statistic != "loss" or variant != "offline"):
    raise ValueError(
      f"a = {a} with variant {variant!r} and statistic {statistic!r}: only "
      "the offline form with statistic='loss', where p lies in [0, 1], has it"
    )
  target, shadows = np.asarray(target), np.asarray(shadows)
  online = variant == "online"
  matrices.check(target, shadows, masks, inside=int(online), outside=1)
  log_p, others = (
    scale
    * matrices.statistic(
      matrices.averaged(losses, axes, augmentations=True), statistic
    )
    for losses, axes in ((target, 1), (shadows, 2))
  )
  mean = _log_mean(others, ~masks)
  if online:
    mean = np.logaddexp(mean, _log_mean(others, masks)) - np.log(2)
  elif a < 1:
    mean = np.logaddexp(mean + np.log((1 + a) / 2), np.log((1 - a) / 2))
  return log_p - mean


def _log_mean(
  log_p: Float[np.ndarray, "s n"], used: Bool[np.ndarray, "s n"]
) -> Float[np.ndarray, " n"]:
  """Log of the mean of p over the models `used`."""
  total = scipy.special.logsumexp(log_p, axis=0, b=used.astype(np.float64))
  return np.asarray(total) - np.log(used.sum(axis=0))

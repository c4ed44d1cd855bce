# SPDX-License-Identifier: Apache-2.0
"""Dataset inference: was this set of images in training, taken together?

Single images are often undecidable; a set adds up what each tells. Of the
suspect set P and a set U of the same kind known to be outside, features (the
scores of several attacks) become one score by logistic regression of P
against U, learnt on a random part of both. On the other part Welch's
one-sided test asks whether P scores higher:

  T = (mean_P - mean_U) / sqrt(var_P / p + var_U / u),   P[t_nu >= T]

with Welch's degrees of freedom nu. The division is arbitrary, so it is
repeated; the p-values are combined as min(1, 2 median), which is valid
however they depend on each other. If U differs from P in more than
membership, the test finds that: a model that never saw P is its control, as
is U against itself.

The published test scores every image out of fold instead, and tests all of
them at once. Folds learn from each other, so that their scores rise together
by chance: with f features T is then about (|S|^2 - f) / |S|, S ~ N(0, I_f),
and at alpha = 1% sets from outside are found in about 1.8% (f = 5) to 5%.

Dubinski et al., "CDI: Copyrighted Data Identification in Diffusion Models",
CVPR 2025; Meinshausen, Meier, Buhlmann 2009 (the median).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
from sklearn.linear_model import LogisticRegression

from diffmem.arrays import AnyArray, Float
from diffmem.stats.rates import check_share, clopper_pearson


def p_value(
  suspect: Float[AnyArray, "p f"],
  outside: Float[AnyArray, "u f"],
  *,
  learn: float = 0.5,
  divisions: int = 11,
  seed: int = 0,
) -> float:
  """How likely the suspect set scores so high if none of it was in training.

  Args:
    suspect: features of each image of P.
    outside: features of each image of U.
    learn: share of both that the regression learns from.
    divisions: into parts, whose p-values are combined.
    seed: of the divisions.

  Raises:
    ValueError: too few images, features that are not finite or do not vary.
  """
  suspect, outside = _checked(suspect, outside, learn)
  if divisions < 1:
    raise ValueError(f"divisions = {divisions}: expected at least 1")
  rng = np.random.default_rng(seed)
  seeds = rng.integers(2**31, size=divisions)
  values = [_one(suspect, outside, learn, int(s)) for s in seeds]
  if divisions == 1:
    return values[0]
  return float(min(1.0, 2 * np.median(values)))


def power(
  suspect: Float[AnyArray, "p f"],
  outside: Float[AnyArray, "u f"],
  sizes: Sequence[int],
  *,
  alpha: float = 0.01,
  resamples: int = 100,
  learn: float = 0.5,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """How often sets of each size are found, and sets that were outside are.

  Args:
    suspect: features of images that were in training.
    outside: of as many or more that were not.
    sizes: how many of each a set has; the control needs twice as many outside.
    alpha: a set is found where p < alpha.
    resamples: sets drawn, each divided once.
    learn, seed: as in `p_value`.

  Returns:
    For each size {"size", "power", "control", "median_p"}; power and control
    are [value, low, high], control None where U is too small. Intervals are
    over draws, which overlap: of these images, not of others.

  Raises:
    ValueError: as in `p_value`, or a size that cannot be drawn.
  """
  suspect, outside = _checked(suspect, outside, learn)
  check_sizes(
    len(suspect),
    len(outside),
    sizes,
    alpha=alpha,
    resamples=resamples,
    learn=learn,
  )
  rng = np.random.default_rng(seed)
  found = []
  for size in sizes:
    p, null = [], []
    for _ in range(resamples):
      s = int(rng.integers(2**31))
      chosen = rng.permutation(len(suspect))[:size]
      others = rng.permutation(len(outside))[: 2 * size]
      p.append(_one(suspect[chosen], outside[others[:size]], learn, s))
      if len(others) == 2 * size:
        halves = outside[others[:size]], outside[others[size:]]
        null.append(_one(*halves, learn, s))
    found.append(
      {
        "size": int(size),
        "power": _rate(p, alpha),
        "control": _rate(null, alpha) if null else None,
        "median_p": float(np.median(p)),
      }
    )
  return found


def check_sizes(
  suspect: int,
  outside: int,
  sizes: Sequence[int],
  *,
  alpha: float,
  resamples: int,
  learn: float,
) -> None:
  """ValueError for sets that cannot be drawn from so many images."""
  check_share("alpha", alpha)
  if resamples < 1 or not len(sizes):
    raise ValueError(
      f"resamples = {resamples}, sizes = {tuple(sizes)}: expected 1 or more, "
      "and a size or more"
    )
  least, most = _least(learn), min(suspect, outside)
  for size in sizes:
    if not least <= size <= most:
      raise ValueError(
        f"a set of size {size}: expected {least} (four to learn from, four to "
        f"test) to {most} (the smaller of members and non-members)"
      )


def scored(
  suspect: Float[np.ndarray, "p f"],
  outside: Float[np.ndarray, "u f"],
  learn: float,
  seed: int,
) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " b"]]:
  """Log-odds of those images of each set that were not learnt from."""
  rng = np.random.default_rng(seed)
  known, tested = [], []
  for rows in (suspect, outside):
    order = rng.permutation(len(rows))
    cut = int(len(rows) * learn)
    known.append(rows[order[:cut]])
    tested.append(rows[order[cut:]])
  x = np.concatenate(known)
  mean, spread = x.mean(axis=0), x.std(axis=0)
  spread = np.where(spread > 0, spread, 1.0)
  # liblinear: no threads, which cost more than so small a fit
  model = LogisticRegression(solver="liblinear", class_weight="balanced")
  model.fit((x - mean) / spread, np.repeat([1, 0], [len(k) for k in known]))
  high, low = (model.decision_function((t - mean) / spread) for t in tested)
  return high, low


def _one(suspect, outside, learn: float, seed: int) -> float:
  """The p-value of one division."""
  high, low = scored(suspect, outside, learn, seed)
  found: Any = scipy.stats.ttest_ind(
    high, low, equal_var=False, alternative="greater"
  )
  return float(found.pvalue)


def _rate(p: list[float], alpha: float) -> list[float]:
  found = int(np.sum(np.array(p) < alpha))
  return [found / len(p), *clopper_pearson(found, len(p))]


def _checked(
  suspect, outside, learn: float
) -> tuple[Float[np.ndarray, "p f"], Float[np.ndarray, "u f"]]:
  suspect, outside = (np.asarray(a, np.float64) for a in (suspect, outside))
  if suspect.ndim != 2 or suspect.shape[1:] != outside.shape[1:]:
    raise ValueError(
      f"features have shapes {suspect.shape} and {outside.shape}: expected "
      "[images features], the same features for both"
    )
  least = _least(learn)
  for name, rows in (("suspect", suspect), ("outside", outside)):
    if len(rows) < least:
      raise ValueError(
        f"{len(rows)} {name} images: expected {least} or more, four to learn "
        "from and four to test"
      )
    bad = int(np.count_nonzero(~np.isfinite(rows)))
    if bad:
      raise ValueError(
        f"{bad} of {rows.size} features of {name} images are NaN or infinite"
      )
  both = np.concatenate([suspect, outside])
  if np.all(both == both[0]):
    raise ValueError(f"the features of all {len(both)} images are the same")
  return suspect, outside


def _least(learn: float) -> int:
  """The smallest set with four images in each part."""
  check_share("learn", learn)
  return int(np.ceil(4 / min(learn, 1 - learn)))

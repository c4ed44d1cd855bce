# SPDX-License-Identifier: Apache-2.0
"""One ROC of several models, with intervals over images.

When every image is scored under each of m models, inside the training set of
some and outside that of others, the m n pairs (model, image) make one ROC.
They are not independent: an image that is hard under one model is hard under
the next. So the bootstrap draws images, and a drawn image brings all its
pairs. Images inside equally often, and outside equally often, are resampled
among themselves; for one model these strata are members and non-members, and
the figures are those of `stats.summary`, to the bit.

Letters: m models, n images, p pairs, r resamples.
"""

from collections.abc import Sequence

import numpy as np

from diffmem.arrays import AnyArray, Bool, Float, Int
from diffmem.stats import curves
from diffmem.stats.rates import check_share, clopper_pearson

Matrix = Float[AnyArray, "..."] | Int[AnyArray, "..."]  # [m n]; checked here
Mask = Bool[np.ndarray, "..."]
Strata = list[Int[np.ndarray, "_"]]  # rows of the images of each


def pooled(
  scores: Matrix,
  inside: Mask,
  *,
  counted: Mask | None = None,
  fprs: Sequence[float] = (0.01, 0.001),
  resamples: int = 1000,
  level: float = 0.95,
  seed: int,
) -> dict[str, list[float] | None]:
  """{"auc": [value, low, high], "tpr@0.01": [..] or None, ..}.

  Args:
    scores: of each image under each model; higher means member.
    inside: whether the image is in the training set of the model.
    counted: the pairs that count, all unless given. Others may be NaN.
    fprs: where the true positive rate is read; None where one pair in all
      pairs of non-members is more than that.
    resamples: draws of images behind each interval.
    level: of the intervals.
    seed: the same seed gives the same ends.

  Raises:
    ValueError: shapes that differ, a score that is not finite, no pair of
      members or none of non-members.
  """
  scores, inside, counted = _checked(scores, inside, counted)
  for fpr in fprs:
    check_share("fpr", fpr)
  check_share("level", level)
  if resamples < 1:
    raise ValueError(f"resamples is {resamples}: expected at least 1")
  member, non_member = split(scores, inside, counted)
  draws = _resampled(scores, inside, counted, tuple(fprs), resamples, seed)
  a, b = (
    int(np.any(counted & which, axis=0).sum()) for which in (inside, ~inside)
  )
  found: dict[str, list[float] | None] = {
    "auc": curves.ends(
      curves.auc(member, non_member), draws[:, 0], min(a, b), level
    )
  }
  for i, fpr in enumerate(fprs):
    value = curves.tpr_at(member, non_member, fpr)
    found[f"tpr@{fpr:g}"] = (
      None if value is None else curves.ends(value, draws[:, i + 1], a, level)
    )
  return found


def split(
  scores: Matrix, inside: Mask, counted: Mask | None = None
) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " b"]]:
  """The scores of all counted pairs inside, and of those outside."""
  scores, inside, counted = _checked(scores, inside, counted)
  return scores[inside & counted], scores[~inside & counted]


def _checked(
  scores: Matrix, inside: Mask, counted: Mask | None
) -> tuple[Float[np.ndarray, "m n"], Mask, Mask]:
  scores, inside = np.asarray(scores, np.float64), np.asarray(inside, bool)
  every = np.ones_like(inside)
  counted = every if counted is None else np.asarray(counted, bool)
  if scores.ndim != 2 or not scores.shape == inside.shape == counted.shape:
    raise ValueError(
      f"scores {scores.shape}, inside {inside.shape}, counted "
      f"{counted.shape}: expected one shape, [models, images]"
    )
  for name, which in (("members", inside), ("non-members", ~inside)):
    if not np.any(which & counted):
      raise ValueError(
        f"no pair of a model and one of its {name} counts: expected some of "
        "both classes"
      )
  bad = np.any(~np.isfinite(scores) & counted, axis=1)
  if bad.any():
    raise ValueError(
      f"scores under {bad.sum()} of {len(bad)} models (rows "
      f"{', '.join(map(str, np.flatnonzero(bad)[:5]))}) are NaN or infinite: "
      "expected finite scores, look at the weights and at the attack"
    )
  return scores, inside, counted


def _strata(inside: Mask, counted: Mask) -> Strata:
  """Images alike in how often they count inside, and outside."""
  pattern = np.stack([(counted & inside).sum(0), (counted & ~inside).sum(0)])
  kinds, of = np.unique(-pattern, axis=1, return_inverse=True)
  of = of.reshape(-1)
  return [
    np.flatnonzero(of == i) for i in range(kinds.shape[1]) if kinds[:, i].any()
  ]


def _resampled(
  scores: Float[np.ndarray, "m n"],
  inside: Mask,
  counted: Mask,
  fprs: tuple[float, ...],
  resamples: int,
  seed: int,
) -> Float[np.ndarray, "r f"]:
  """AUC and TPRs of resampled images: columns (auc, *fprs)."""
  rng = np.random.default_rng(seed)
  strata = _strata(inside, counted)
  _, image = np.nonzero(counted)
  values, labels = scores[counted], inside[counted]
  order = np.argsort(-values, kind="stable")
  values, labels, image = values[order], labels[order], image[order]
  last = np.flatnonzero(np.append(values[1:] != values[:-1], True))
  a, b = int(labels.sum()), int((~labels).sum())
  allowed = [np.count_nonzero(np.arange(1, b + 1) / b <= x) for x in fprs]

  def cumulative(weight: Int[np.ndarray, "r p"]) -> Int[np.ndarray, "r v"]:
    return np.cumsum(weight, axis=1)[:, last]

  found = []
  step = max(1, curves.CELLS // len(values))
  for start in range(0, resamples, step):
    rows = min(step, resamples - start)
    times = _times(rng, strata, rows, scores.shape[1])[:, image]
    true, false = cumulative(times * labels), cumulative(times * ~labels)
    positive, negative = (np.diff(x, prepend=0) for x in (true, false))
    below = b - false + negative / 2
    columns = [(positive * below).sum(1) / (a * b)]
    for limit in allowed:
      point = (false <= limit).sum(1)
      tpr = np.where(point, true[np.arange(rows), point - 1] / a, 0.0)
      columns.append(tpr)
    found.append(np.stack(columns, axis=1))
  return np.concatenate(found)


def _times(
  rng: np.random.Generator, strata: Strata, rows: int, n: int
) -> Int[np.ndarray, "r n"]:
  """How often each image is drawn in each of `rows` resamples."""
  times = np.zeros((rows, n), np.int64)
  for images in strata:
    drawn = rng.integers(images.size, size=(rows, images.size))
    cells = drawn + images.size * np.arange(rows)[:, None]
    counts = np.bincount(cells.ravel(), minlength=rows * images.size)
    times[:, images] = counts.reshape(rows, images.size)
  return times


def rate(
  hits: Mask,
  counted: Mask,
  *,
  resamples: int = 1000,
  level: float = 0.95,
  seed: int,
) -> list[float] | None:
  """[share of counted pairs that are hits, low, high]; None without pairs.

  Where no image counts twice the interval is that of Clopper and Pearson;
  otherwise images are resampled, and where that cannot move the share (0 or
  1) the end is Clopper and Pearson's for as many trials as images.
  """
  hits, counted = np.asarray(hits, bool), np.asarray(counted, bool)
  if hits.ndim != 2 or hits.shape != counted.shape:
    raise ValueError(
      f"hits {hits.shape}, counted {counted.shape}: expected one shape, "
      "[models, images]"
    )
  check_share("level", level)
  trials = counted.sum(0)
  total = int(trials.sum())
  if not total:
    return None
  found = (hits & counted).sum(0)
  value, images = int(found.sum()) / total, int(np.count_nonzero(trials))
  if trials.max() == 1:
    low, high = clopper_pearson(int(found.sum()), total, level=level)
    return [value, low, high]
  rng = np.random.default_rng(seed)
  strata = _strata(counted, counted)
  draws = []
  step = max(1, curves.CELLS // len(trials))
  for start in range(0, resamples, step):
    rows = min(step, resamples - start)
    draws.append(_times(rng, strata, rows, len(trials)) @ found / total)
  return curves.ends(value, np.concatenate(draws), images, level)

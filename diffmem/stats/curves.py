# SPDX-License-Identifier: Apache-2.0
"""ROC and intervals of score sets. A score is higher for members.

Every distinct score is a threshold ("score >= threshold" says member);
TPR @ FPR <= x is the last point of the exact curve whose FPR is at most x,
and is not resolvable (None) when x is below one non-member. The unit of every
interval is the image: members and non-members are resampled apart
(stratified bootstrap, percentiles). Where resampling cannot move the value (a
perfect separation, a rate of 0 or 1) the end comes from Clopper and Pearson
(1934); for the AUC over min(a, b) disjoint pairs of a member and a
non-member, which are independent trials of probability AUC.

Letters: a members, b non-members, p points of the curve, r resamples.
"""

from collections.abc import Sequence

import numpy as np
import scipy.stats
import sklearn.metrics

from diffmem.arrays import AnyArray, Float, Int
from diffmem.stats.rates import check_share, clopper_pearson

Scores = Float[AnyArray, "..."] | Int[AnyArray, "..."]
CELLS = 1 << 22  # resampled counts held at once: 32 MB of int64


def _checked(
  member_scores: Scores, non_member_scores: Scores
) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " b"]]:
  """Both score sets as finite float64 vectors, or a ValueError."""
  named = (("member", member_scores), ("non-member", non_member_scores))
  checked = []
  for name, scores in named:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not scores.size:
      raise ValueError(
        f"{name} scores have shape {scores.shape}: expected one score per "
        "image, shape [n] with n > 0"
      )
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
      raise ValueError(
        f"{bad} of {scores.size} {name} scores are NaN or infinite: "
        "expected finite scores, look at the weights and at the attack"
      )
    checked.append(scores)
  return checked[0], checked[1]


def roc(
  member_scores: Scores, non_member_scores: Scores
) -> tuple[
  Float[np.ndarray, " p"], Float[np.ndarray, " p"], Float[np.ndarray, " p"]
]:
  """Exact ROC: (fpr, tpr, thresholds), from (0, 0) at inf to (1, 1)."""
  member, non_member = _checked(member_scores, non_member_scores)
  labels = np.repeat([1, 0], [member.size, non_member.size])
  return sklearn.metrics.roc_curve(
    labels, np.concatenate([member, non_member]), drop_intermediate=False
  )


def auc(member_scores: Scores, non_member_scores: Scores) -> float:
  """P(member > non-member) + P(tie) / 2 (Mann and Whitney 1947)."""
  member, non_member = _checked(member_scores, non_member_scores)
  ranks = scipy.stats.rankdata(np.concatenate([member, non_member]))
  a, b = member.size, non_member.size
  return float((ranks[:a].sum() - a * (a + 1) / 2) / (a * b))


def tpr_at(
  member_scores: Scores, non_member_scores: Scores, fpr: float
) -> float | None:
  """TPR at the last point with FPR <= fpr; None when not resolvable."""
  check_share("fpr", fpr)
  false, true, _ = roc(member_scores, non_member_scores)
  if 1 / len(non_member_scores) > fpr:
    return None
  return float(true[false <= fpr][-1])


def best_accuracy(member_scores: Scores, non_member_scores: Scores) -> float:
  """Largest (TPR + 1 - FPR) / 2 of any threshold.

  Optimistic: the threshold is picked on the images it is reported on.
  """
  false, true, _ = roc(member_scores, non_member_scores)
  return float(np.max(true + 1.0 - false) / 2)


def interval(
  member_scores: Scores,
  non_member_scores: Scores,
  *,
  fpr: float | None = None,
  resamples: int = 1000,
  level: float = 0.95,
  seed: int,
) -> tuple[float, float, float] | None:
  """(value, low, high) of the AUC, or of TPR @ FPR <= fpr when given.

  None when that FPR is not resolvable with so few non-members.
  """
  fprs = () if fpr is None else (fpr,)
  found = summary(
    member_scores,
    non_member_scores,
    fprs=fprs,
    resamples=resamples,
    level=level,
    seed=seed,
  )
  value = found["auc" if fpr is None else f"tpr@{fpr:g}"]
  return None if value is None else (value[0], value[1], value[2])


def summary(
  member_scores: Scores,
  non_member_scores: Scores,
  *,
  fprs: Sequence[float] = (0.01, 0.001),
  resamples: int = 1000,
  level: float = 0.95,
  seed: int,
) -> dict[str, list[float] | None]:
  """{"auc": [value, low, high], "tpr@0.01": [..] or None, ..}.

  One set of resamples serves all figures; the same seed gives the same ends.
  """
  member, non_member = _checked(member_scores, non_member_scores)
  for fpr in fprs:
    check_share("fpr", fpr)
  check_share("level", level)
  if resamples < 1:
    raise ValueError(f"resamples is {resamples}: expected at least 1")
  a, b = member.size, non_member.size
  draws = _resampled(member, non_member, tuple(fprs), resamples, seed)
  pairs = min(a, b)
  found: dict[str, list[float] | None] = {
    "auc": ends(auc(member, non_member), draws[:, 0], pairs, level)
  }
  for i, fpr in enumerate(fprs):
    value = tpr_at(member, non_member, fpr)
    found[f"tpr@{fpr:g}"] = (
      None if value is None else ends(value, draws[:, i + 1], a, level)
    )
  return found


def ends(
  value: float, draws: Float[np.ndarray, " r"], trials: int, level: float
) -> list[float]:
  """[value, low, high]: percentiles, and exact where they cannot move."""
  tails = [(1 - level) / 2, (1 + level) / 2]
  low, high = (float(q) for q in np.quantile(draws, tails))
  if value in (0.0, 1.0):
    exact = clopper_pearson(round(value * trials), trials, level=level)
    low, high = min(low, exact[0]), max(high, exact[1])
  return [value, min(low, value), max(high, value)]


def _resampled(
  member: Float[np.ndarray, " a"],
  non_member: Float[np.ndarray, " b"],
  fprs: tuple[float, ...],
  resamples: int,
  seed: int,
) -> Float[np.ndarray, "r f"]:
  """AUC and TPRs of stratified resamples: columns (auc, *fprs).

  A resample is a count per distinct score, so nothing is sorted again.
  """
  rng = np.random.default_rng(seed)
  values, places = np.unique(
    np.concatenate([member, non_member]), return_inverse=True
  )
  size, a, b = values.size, member.size, non_member.size
  places = size - 1 - places  # descending: the first threshold is the highest
  allowed = [np.count_nonzero(np.arange(1, b + 1) / b <= x) for x in fprs]

  def counts(places: Int[np.ndarray, " n"], rows: int):
    drawn = rng.integers(places.size, size=(rows, places.size))
    cells = places[drawn] + size * np.arange(rows)[:, None]
    flat = np.bincount(cells.ravel(), minlength=rows * size)
    return flat.reshape(rows, size)

  found = []
  step = max(1, CELLS // (a + b))
  for start in range(0, resamples, step):
    rows = min(step, resamples - start)
    positive = counts(places[:a], rows)
    negative = counts(places[a:], rows)
    true, false = positive.cumsum(1), negative.cumsum(1)
    below = b - false + negative / 2
    columns = [(positive * below).sum(1) / (a * b)]
    for limit in allowed:
      last = (false <= limit).sum(1)
      tpr = np.where(last, true[np.arange(rows), last - 1] / a, 0.0)
      columns.append(tpr)
    found.append(np.stack(columns, axis=1))
  return np.concatenate(found)

# SPDX-License-Identifier: Apache-2.0
"""From the scores of an attack to its numbers, with or without shadows.

An attack without shadows scores each image under one model; one with shadows
scores each image under several target models, in some of which it is a
member. Both are a matrix [model, image, time] here, one ROC is made of all
pairs, and intervals are over images (`stats.pooled`). Times are chosen on
images that no number of the report comes from, or fixed in advance; the other
times are a sweep, marked exploratory.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffmem import stats
from diffmem.arrays import Bool, Float, Int
from diffmem.membership import choosing

FPRS = (0.01, 0.001)
TRANSFER = 0.01  # the false positive rate of thresholds that are carried over


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
  """Who is a member of which model, and who is used for what.

  Attributes:
    inside: whether image n is in the training set of target model m.
    choose: images on which times are chosen.
    report: images that the numbers come from.
  """

  inside: Bool[np.ndarray, "m n"]
  choose: Bool[np.ndarray, " n"]
  report: Bool[np.ndarray, " n"]

  def pairs(
    self, scores: Float[np.ndarray, "m n"], where: Bool[np.ndarray, " n"]
  ) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " b"]]:
    """Scores of members, and of non-members, among the images there."""
    inside = self.inside[:, where]
    return scores[:, where][inside], scores[:, where][~inside]

  def counts(self, where: Bool[np.ndarray, " n"]) -> dict[str, int]:
    """Pairs of a model and a member, and of a model and a non-member."""
    inside = int(self.inside[:, where].sum())
    return {
      "members": inside,
      "non_members": len(self.inside) * int(where.sum()) - inside,
    }


def of_parts(parts: choosing.Parts) -> Design:
  """The design of one model; planted images are reported apart."""
  return Design(
    parts.copies[None] > 0, parts.choose, parts.report & (parts.copies <= 1)
  )


def attack(
  scores: Float[np.ndarray, "m n t"],
  times: Sequence[Any],
  design: Design,
  *,
  calibration: Float[np.ndarray, "m c t"] | None,
  headline_t: int | None,
  criterion: str,
  bootstrap: int,
  seed: int,
) -> tuple[dict[str, Any], int]:
  """The numbers of one attack, and which time is its headline.

  Args:
    scores: of each image under each model at each time.
    times: the name of each time.
    design: who is who.
    calibration: scores, under each model, of images that none was trained on;
      they set the threshold that is carried over. None: non-members that
      choose set it.
    headline_t: a time fixed in advance, or None to choose.
    criterion: what is best on the images that choose.
    bootstrap: resamples behind each interval.
    seed: of the resampling.

  Raises:
    ValueError: scores that are not finite, or the same for all images.
  """
  check(scores, times)
  row = headline(scores, times, design, headline_t, criterion)
  at = scores[:, :, row]
  if np.ptp(at[:, design.report]) == 0:
    raise ValueError(
      f"every score at t = {times[row]} is {at[0, 0]:g}: constant scores tell "
      "nothing, look at the weights and at the time"
    )
  every = [
    summary(scores[:, :, i], design, bootstrap=bootstrap, seed=seed)
    for i in range(len(times))
  ]
  chosen = None
  if headline_t is None:
    chosen = {"t": times[row], "criterion": criterion}
    chosen["on"] = design.counts(design.choose)
  found = {
    **every[row],
    "t": times[row],
    **design.counts(design.report),
    "chosen": chosen,
    "transferred": transferred(
      at,
      design,
      None if calibration is None else calibration[:, :, row].ravel(),
      bootstrap=bootstrap,
      seed=seed,
    ),
    "sweep": [
      {"t": t, "exploratory": i != row, **every[i]} for i, t in enumerate(times)
    ],
  }
  return found, row


def summary(
  scores: Float[np.ndarray, "m n"],
  design: Design,
  *,
  bootstrap: int,
  seed: int,
) -> dict[str, Any]:
  """AUC and TPR at FPRS of the reported images, over all models."""
  return stats.pooled(
    scores,
    design.inside,
    counted=np.broadcast_to(design.report, scores.shape),
    fprs=FPRS,
    resamples=bootstrap,
    seed=seed,
  )


def by_draws(
  score: Callable[[int, int], Float[np.ndarray, "m n"]],
  augment: Sequence[str],
  draws: int,
  design: Design,
  *,
  bootstrap: int,
  seed: int,
) -> list[dict[str, Any]]:
  """An attack with fewer noise draws, and with one augmentation alone.

  score(augmentations, draws) -> [m n], of the first so many of each; powers
  of two and all draws, one augmentation and then all.
  """
  sizes = [2**i for i in range(20) if 2**i < draws] + [draws]
  return [
    {
      "draws": count,
      "augment": tuple(augment[:views]),
      **summary(score(views, count), design, bootstrap=bootstrap, seed=seed),
    }
    for views in sorted({1, len(augment)})
    for count in sizes
  ]


def check(scores: Float[np.ndarray, "m n t"], times: Sequence[Any]) -> None:
  """ValueError, naming the times, where a score is not finite."""
  bad = ~np.isfinite(scores).all((0, 1))
  if bad.any():
    names = ", ".join(str(times[i]) for i in np.flatnonzero(bad).tolist())
    wrong = int((~np.isfinite(scores)).sum())
    raise ValueError(
      f"{wrong} of {scores.size} scores are NaN or infinite (t = {names}): "
      "expected finite scores, look at the weights and at the attack"
    )


def headline(
  scores: Float[np.ndarray, "m n t"],
  times: Sequence[Any],
  design: Design,
  headline_t: int | None,
  criterion: str,
) -> int:
  """The time fixed in advance, or the one chosen; an attack may have one."""
  if len(times) == 1:
    return 0
  if headline_t is not None:
    return list(times).index(headline_t)
  pairs = [
    design.pairs(scores[:, :, i], design.choose) for i in range(len(times))
  ]
  member, non_member = (np.stack(x, axis=1) for x in zip(*pairs, strict=True))
  return choosing.best_time(member, non_member, criterion)


def transferred(
  scores: Float[np.ndarray, "m n"],
  design: Design,
  calibration: Float[np.ndarray, " c"] | None,
  *,
  bootstrap: int,
  seed: int,
) -> dict[str, Any] | None:
  """A threshold set elsewhere for an FPR, and the rates it realises here.

  None where so few images cannot set one.
  """
  by = "calibration images"
  if calibration is None:
    _, calibration = design.pairs(scores, design.choose)
    by = "non-members that choose"
  cut = choosing.threshold(calibration, TRANSFER)
  if cut is None:
    return None

  def rate(of: Bool[np.ndarray, "m n"]) -> list[float] | None:
    return stats.pooled_rate(
      scores >= cut, of & design.report, resamples=bootstrap, seed=seed
    )

  return {
    "fpr": TRANSFER,
    "threshold": cut,
    "set_by": by,
    "set_on": len(calibration),
    "realised_fpr": rate(~design.inside),
    "tpr": rate(design.inside),
  }


def by_copies(
  scores: Float[np.ndarray, " n"],
  parts: choosing.Parts,
  *,
  bootstrap: int,
  seed: int,
) -> dict[str, list[float] | None]:
  """AUC of images planted so often against the reported non-members."""
  never = scores[parts.rows(parts.report, 0)]
  return {
    str(c): stats.summary(
      scores[parts.rows(parts.report, c)],
      never,
      fprs=(),
      resamples=bootstrap,
      seed=seed,
    )["auc"]
    for c in np.unique(parts.copies[parts.copies > 1]).tolist()[::-1]
  }


def scores_csv(
  ids: Int[np.ndarray, " n"],
  parts: choosing.Parts,
  scores: dict[str, np.ndarray],
) -> str:
  """One line an image: id, member, copies, what it is used for, scores."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(["id", "member", "copies", "used", *scores])
  order = np.argsort(parts.copies == 0, kind="stable")  # members first
  for i in order[~parts.calibration[order]]:
    row = [f"{values[i]:.9g}" for values in scores.values()]
    count = parts.copies[i]
    used = "choose" if parts.choose[i] else "report"
    writer.writerow([ids[i], int(count > 0), count, used, *row])
  return out.getvalue()

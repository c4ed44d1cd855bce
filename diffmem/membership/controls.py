# SPDX-License-Identifier: Apache-2.0
"""Every claim has its control: what the same machinery finds in nothing.

  random     scores of pure noise, put through choosing, thresholds and ROC
  shuffled   the attack's own scores, who is a member drawn anew
  others     non-members against other non-members, under the same attack
  generated  what the model itself drew, as a third class

Each is a dict with the numbers, `passes` (None where there is nothing to
pass) and a sentence that `says` it. What fails does not stop the run: it is
reported.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats

from diffmem import stats
from diffmem.arrays import Bool, Float
from diffmem.membership import choosing, evaluate
from diffmem.membership.evaluate import TRANSFER, Design

SURE = 3e-5  # the chance of a mean so far off on one side by accident


def random(
  design: Design,
  times: int,
  calibration: int,
  *,
  headline: int | None,
  criterion: str,
  draws: int,
  seed: int,
  score: Callable[..., Float[np.ndarray, "m n"]] | None = None,
) -> dict[str, Any]:
  """Noise in place of scores: AUC 1/2, and thresholds that keep their rate.

  Args:
    design: who is who.
    times: columns to choose from.
    calibration: how many calibration images set the threshold; 0: those
      non-members that choose do.
    headline: the column fixed in advance, or None to choose.
    criterion: by what to choose.
    draws: random matrices, at least 2.
    seed: of the noise.
    score: for an attack with shadows, from losses of pure noise [m n] to
      its scores [m n]; they are drawn with the shape of the design.
  """
  rng = np.random.default_rng(seed)
  shape = design.inside.shape
  aucs, rates = [], []
  for _ in range(draws):
    if score is None:
      scores = rng.standard_normal((*shape, times))
    else:
      noise = rng.lognormal(size=(times, *shape))
      scores = np.stack([score(x) for x in noise], axis=-1)
    column = headline
    if column is None:
      column = evaluate.headline(scores, range(times), design, None, criterion)
    at = scores[:, :, column]
    member, non_member = design.pairs(at, design.report)
    aucs.append(stats.auc(member, non_member))
    apart = rng.standard_normal(calibration)
    if not calibration:
      _, apart = design.pairs(at, design.choose)
    cut = choosing.threshold(apart, TRANSFER)
    if cut is not None:
      rates.append(float(np.mean(non_member >= cut)))
  found = _around_half(aucs)
  passes = found.pop("passes")
  said = (
    f"Scores of pure noise have an AUC of {found['mean_auc']:.3f} on average "
    f"over {draws} draws"
  )
  if rates:
    mean, slack = _mean(rates)
    found |= {"mean_realised_fpr": mean, "nominal_fpr": TRANSFER}
    passes &= mean <= TRANSFER + slack
    said += (
      f", and a threshold set for {TRANSFER:.0%} false alarms lets "
      f"{mean:.2%} of non-members pass"
    )
  return {**found, "passes": bool(passes), "says": f"{said}."}


def shuffled(
  scores: Float[np.ndarray, "m n t"],
  design: Design,
  observed: float,
  *,
  headline: int | None,
  criterion: str,
  permutations: int,
  seed: int,
) -> dict[str, Any]:
  """The attack's own scores with the images' memberships exchanged.

  Images that choose exchange among themselves, and so do reported ones; then
  a time is chosen again. `p` is the share of such AUCs, and of the observed
  one, that reach the observed one.
  """
  rng = np.random.default_rng(seed)
  models, n, times = scores.shape
  rows = np.flatnonzero(design.report)
  here = scores[:, rows].reshape(-1, times)
  ranks = scipy.stats.rankdata(here, axis=0).reshape(models, -1, times)
  aucs = []
  for _ in range(permutations):
    order = np.arange(n)
    for where in (design.choose, design.report):
      images = np.flatnonzero(where)
      order[images] = rng.permutation(images)
    other = Design(design.inside[:, order], design.choose, design.report)
    column = headline
    if column is None:
      column = evaluate.headline(scores, range(times), other, None, criterion)
    inside = other.inside[:, rows]
    a = int(inside.sum())
    b = inside.size - a
    total = ranks[:, :, column][inside].sum()
    aucs.append((total - a * (a + 1) / 2) / (a * b))
  found = _around_half(aucs)
  reached = int(np.sum(np.asarray(aucs) >= observed))
  low, high = found["middle_95"]
  return {
    **found,
    "p": (1 + reached) / (1 + permutations),
    "says": f"With the labels exchanged at random {permutations} times, the "
    f"same scores have an AUC of {found['mean_auc']:.3f} on average, 95% of "
    f"them between {low:.3f} and {high:.3f}; {reached} reach the "
    f"{observed:.3f} of the true labels.",
  }


def _around_half(aucs: list[float]) -> dict[str, Any]:
  mean, slack = _mean(aucs)
  low, high = (float(q) for q in np.quantile(aucs, [0.025, 0.975]))
  return {
    "draws": len(aucs),
    "mean_auc": mean,
    "middle_95": [low, high],
    "passes": bool(abs(mean - 0.5) <= slack),
  }


def _mean(values: list[float]) -> tuple[float, float]:
  """The mean, and how far off it may be by accident (Student's t)."""
  count = len(values)
  error = np.std(values, ddof=1) / np.sqrt(count)
  return float(np.mean(values)), float(
    error * scipy.stats.t.isf(SURE, count - 1)
  )


def others(
  scores: Float[np.ndarray, "m n"],
  outside: Bool[np.ndarray, "m n"],
  calibration: Bool[np.ndarray, " n"],
  *,
  attacks: int,
  bootstrap: int,
  seed: int,
) -> dict[str, Any]:
  """Held-out images against calibration images: nobody is a member.

  It passes if the AUC's interval holds 1/2 at a level that allows for so many
  attacks: on a fair split all of them pass in 95 of 100 runs.

  Args:
    scores: of each image under each target model.
    outside: the reported pairs of non-members.
    calibration: the images of the calibration part.
    attacks: how many controls of this kind there are.
    bootstrap: resamples behind each interval.
    seed: of the resampling.
  """
  every = np.broadcast_to(calibration, scores.shape)

  def compare(level: float) -> list[float]:
    found = stats.pooled(
      scores,
      outside,
      counted=outside | every,
      fprs=(),
      resamples=bootstrap,
      level=level,
      seed=seed,
    )["auc"]
    assert found is not None
    return found

  auc = compare(0.95)
  _, low, high = compare(1 - 0.05 / attacks)
  passes = low <= 0.5 <= high
  meaning = (
    "as it should"
    if passes
    else "so the two sets differ by more than chance, and members may differ "
    "from non-members without having been trained on"
  )
  verb = "does not tell" if passes else "tells"
  return {
    "auc": auc,
    "images": [int(outside.any(0).sum()), int(calibration.sum())],
    "passes": bool(passes),
    "says": f"Between held-out and calibration images, none of them members, "
    f"the attack {verb} (AUC {auc[0]:.3f}, {auc[1]:.3f} to {auc[2]:.3f}), "
    f"{meaning}.",
  }


def generated(
  scores: Float[np.ndarray, " g"],
  non_members: Float[np.ndarray, " b"],
  members: Float[np.ndarray, " a"],
  cut: float | None,
  *,
  bootstrap: int,
  seed: int,
) -> dict[str, Any]:
  """What the model drew: would it be called a member?

  An attack that says so of most generations recognises what the model finds
  likely, and not what it was trained on.
  """
  options = {"resamples": bootstrap, "seed": seed}
  against = stats.summary(scores, non_members, fprs=(), **options)["auc"]
  of_members = stats.summary(members, scores, fprs=(), **options)["auc"]
  assert against is not None
  found: dict[str, Any] = {
    "images": len(scores),
    "auc_against_non_members": against,
    "auc_of_members_against_them": of_members,
    "called_members": None,
    "passes": None,
  }
  value = against[0]
  said = f"Generated images score above non-members with an AUC of {value:.3f}"
  if cut is not None:
    k = int(np.sum(scores >= cut))
    low, high = stats.clopper_pearson(k, len(scores))
    share = k / len(scores)
    found["called_members"] = [share, low, high]
    said += (
      f", and the threshold set for {TRANSFER:.0%} false alarms calls "
      f"{share:.1%} of them members"
    )
  return {**found, "says": f"{said}."}

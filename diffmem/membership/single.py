# SPDX-License-Identifier: Apache-2.0
"""One attack without shadows, over all target models: scores and numbers."""

import dataclasses
from typing import Any

import numpy as np

from diffmem import stats
from diffmem.arrays import Float
from diffmem.membership import controls, evaluate, loss, shadow_signals
from diffmem.membership.evaluate import Design
from diffmem.membership.scene import Scene
from diffmem.membership.stored import Wanted


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """What one attack gave.

  Attributes:
    name: of the attack.
    numbers: for results.json.
    scores: of each image under each target, at the headline time; pairs that
      the attack does not score are NaN.
    design: who is who; its images are those of `scores`.
    by_time: scores at each time.
    row: the headline time among them.
    fitted: what the attack learnt of each target, or None each.
  """

  name: str
  numbers: dict[str, Any]
  scores: Float[np.ndarray, "m n"]
  design: Design
  by_time: Float[np.ndarray, "m n t"]
  row: int
  fitted: tuple[Any, ...] = ()

  @property
  def curve(self) -> tuple[np.ndarray, np.ndarray]:
    """The exact ROC of the reported pairs: (fpr, tpr)."""
    pairs = self.design.pairs(self.scores, self.design.report)
    return stats.roc(*pairs)[:2]

  @property
  def cut(self) -> float | None:
    """The threshold that is carried over."""
    found = self.numbers["transferred"]
    return None if found is None else found["threshold"]


def run(
  scene: Scene,
  want: Wanted,
  *,
  headline_t: int | None,
  criterion: str,
  batch: int,
  bootstrap: int,
  seed: int,
  progress: bool = True,
) -> Result:
  """Computes the signal where it is missing, then scores and numbers.

  Raises:
    ValueError: scores that tell nothing, or signals kept of something else.
    FloatingPointError: a signal is not finite; names the ids.
  """
  found = shadow_signals.compute(
    scene.targets,
    want.signal,
    t=want.times,
    batch=batch,
    progress=progress,
    **want.of_signal,
  )
  design, learns = scene.design, want.attack.fit is not None
  fit = np.zeros_like(design.choose)
  if learns:
    fit = design.choose if headline_t is not None else scene.parts.fit
    design = dataclasses.replace(design, choose=design.choose & ~fit)
  scores, fitted = [], []
  for kept, inside in zip(found.stores, design.inside, strict=True):
    learnt = None
    if want.attack.fit is not None:
      rows = np.flatnonzero(fit)
      learnt = want.attack.fit(kept[rows], inside[rows], **want.of_fit)
    fitted.append(learnt)
    scores.append(want.scores(kept, learnt))
  by_time = np.stack(scores)
  times = want.columns(by_time.shape[2])
  calibration = None
  if scene.parts.calibration.any():
    calibration = by_time[:, scene.parts.calibration]
  numbers, row = evaluate.attack(
    by_time,
    times,
    design,
    calibration=calibration,
    headline_t=headline_t,
    criterion=criterion,
    bootstrap=bootstrap,
    seed=seed,
  )
  numbers |= about(want, len(by_time))
  if want.attack.signal is loss.SIGNAL and len(times) == len(want.times):
    values = [kept[:][:, row : row + 1] for kept in found.stores]
    numbers["by_draws"] = by_draws(
      want, values, design, bootstrap=bootstrap, seed=seed
    )
  if learns:
    numbers["learnt_on"] = design.counts(fit)
  if scene.main is not None:
    numbers["by_copies"] = evaluate.by_copies(
      by_time[0, :, row], scene.parts, bootstrap=bootstrap, seed=seed
    )
  at = by_time[:, :, row]
  return Result(want.name, numbers, at, design, by_time, row, tuple(fitted))


def about(want: Wanted, models: int) -> dict[str, Any]:
  """What the attack is and what it costs."""
  found = {
    "kind": "model",
    "models": models,
    "source": want.attack.source,
    "queries": want.queries,
    "options": want.options,
  }
  if "draws" in want.options:
    found["draws"] = want.options["draws"]
  return found


def by_draws(
  want: Wanted,
  losses: list[Float[np.ndarray, "n 1 draws a"]],
  design: Design,
  *,
  bootstrap: int,
  seed: int,
) -> list[dict[str, Any]]:
  """The loss attack with fewer noise draws and augmentations."""

  def score(views: int, draws: int) -> Float[np.ndarray, "m n"]:
    return np.stack(
      [want.scores(v[:, :, :draws, :views])[:, 0] for v in losses]
    )

  return evaluate.by_draws(
    score,
    want.of_signal["augment"],
    want.of_signal["draws"],
    design,
    bootstrap=bootstrap,
    seed=seed,
  )


def control(
  scene: Scene,
  result: Result,
  *,
  headline_t: int | None,
  criterion: str,
  attacks: int,
  permutations: int,
  bootstrap: int,
  seed: int,
) -> dict[str, dict]:
  """Labels exchanged; non-members against non-members."""
  several = headline_t is None and result.by_time.shape[2] > 1
  found = {
    "shuffled": controls.shuffled(
      result.by_time,
      result.design,
      result.numbers["auc"][0],
      headline=None if several else result.row,
      criterion=criterion,
      permutations=permutations,
      seed=seed,
    )
  }
  calibration = scene.parts.calibration
  scored = result.scores.shape[1] == len(calibration)
  if calibration.any() and scored:  # attacks with shadows score the pool
    found["non_members"] = controls.others(
      result.scores,
      ~result.design.inside & result.design.report[None],
      calibration,
      attacks=attacks,
      bootstrap=bootstrap,
      seed=seed,
    )
  return found

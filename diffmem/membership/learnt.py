# SPDX-License-Identifier: Apache-2.0
"""Attacks of the stage that learn a regression or a classifier.

  quantile   thresholds of one attack's scores for each image, learnt on the
             calibration part (`quantile`)
  gradients  a classifier of gradient norms, learnt on shadow models (`gsa`)

Each is a section of the membership config, or None there.
"""

from typing import Any

import numpy as np

from diffmem import stats
from diffmem.arrays import Bool, Float
from diffmem.data import streams
from diffmem.membership import (
  evaluate,
  gradients,
  gsa,
  matrices,
  quantile,
  shadow_signals,
  shadowed,
  signals,
)
from diffmem.membership.scene import Scene
from diffmem.membership.single import Result

KEYS = {
  "quantile": {"attack", "components", "fpr", "regressor", "bags"},
  "gradients": {"times", "draws", "norms", "classifier"},
}


def check(scene: Scene, membership: dict, seed: int) -> None:
  """ValueError, before anything is computed, for what cannot be."""
  for name, keys in KEYS.items():
    check_keys(f"membership.{name}", membership[name], keys)
  of = membership["quantile"]
  if of is not None:
    if of["attack"] not in membership["attacks"]:
      raise ValueError(
        f"membership.quantile.attack = {of['attack']!r}: expected one of "
        f"membership.attacks = {tuple(membership['attacks'])}"
      )
    quantile.check_options(
      int(scene.parts.calibration.sum()),
      fpr=of["fpr"],
      regressor=of["regressor"],
      bags=of["bags"],
    )
  of = membership["gradients"]
  if of is not None:
    if scene.shadows is None:
      raise ValueError(
        "membership.gradients needs shadow models: set data.split.shadows and "
        "membership.shadow_attacks, or membership.gradients=None"
      )
    gsa.check_classifier(of["classifier"])
    signals.at_least_one(draws=of["draws"], times=of["times"])
    gradients.check_norms(of["norms"])
    shadow_signals.check(
      scene.shadows,
      gradients.SIGNAL,
      t=_times(scene, of["times"]),
      batch=membership["batch"],
      draws=of["draws"],
      norms=of["norms"],
      seed=seed,
    )


def check_keys(where: str, given: dict | None, keys: set[str]) -> None:
  """ValueError unless the section, if there is one, has just these keys."""
  if given is not None and set(given) != keys:
    raise ValueError(
      f"{where} has the keys {', '.join(sorted(given)) or 'none'}: expected "
      f"{', '.join(sorted(keys))}, or None"
    )


def with_thresholds(
  scene: Scene,
  base: Result,
  *,
  attack: str,
  components: int,
  fpr: float,
  regressor: str,
  bags: int,
  criterion: str,
  bootstrap: int,
  seed: int,
) -> Result:
  """The quantile attack on the headline scores of `base`.

  The thresholds of calibration images, which only the control of non-members
  against non-members looks at, are learnt on the other half of them.
  """
  calibration = np.flatnonzero(scene.parts.calibration)
  others = np.flatnonzero(~scene.parts.calibration)
  halves = np.array_split(
    calibration[streams.permutation(len(calibration), seed, "quantile")], 2
  )
  images = scene.dataset.take(scene.ids)
  features, _ = quantile.pixels(
    images, images[calibration], components=components
  )
  options: dict[str, Any] = dict(
    fpr=fpr, regressor=regressor, bags=bags, seed=seed
  )
  by_time = np.empty((*base.scores.shape, 1))
  for m, scores in enumerate(base.scores):
    for at, known in (
      (others, calibration),
      (halves[0], halves[1]),
      (halves[1], halves[0]),
    ):
      by_time[m, at, 0] = quantile.score(
        scores[at], features[at], scores[known], features[known], **options
      )
  t = base.numbers["t"]
  numbers, _ = evaluate.attack(
    by_time,
    (t,),
    base.design,
    calibration=by_time[:, calibration],
    headline_t=t,
    criterion=criterion,
    bootstrap=bootstrap,
    seed=seed,
  )
  scores = by_time[:, :, 0]
  numbers |= {
    "kind": "model",
    "models": len(scores),
    "source": "Tang et al. 2023",
    "queries": base.numbers["queries"],
    "options": {**options, "attack": attack, "components": components},
    "flagged": flagged(scores, base.design, bootstrap=bootstrap, seed=seed),
  }
  if scene.main is not None:
    numbers["by_copies"] = evaluate.by_copies(
      scores[0], scene.parts, bootstrap=bootstrap, seed=seed
    )
  return Result("quantile", numbers, scores, base.design, by_time, 0)


def flagged(
  scores: Float[np.ndarray, "m n"],
  design: evaluate.Design,
  *,
  bootstrap: int,
  seed: int,
) -> dict[str, list[float] | None]:
  """Shares above their own thresholds: {"members", "non_members"}."""

  def rate(of: Bool[np.ndarray, "m n"]) -> list[float] | None:
    return stats.pooled_rate(
      scores > 0, of & design.report, resamples=bootstrap, seed=seed
    )

  return {"members": rate(design.inside), "non_members": rate(~design.inside)}


def with_gradients(
  scene: Scene,
  *,
  times: int,
  draws: int,
  norms: str,
  classifier: str,
  batch: int,
  criterion: str,
  bootstrap: int,
  seed: int,
  progress: bool = True,
) -> Result:
  """The gradient attack: each shadow by the others, its pair left out."""
  assert scene.shadows is not None
  at = _times(scene, times)
  found = shadow_signals.compute(
    scene.shadows,
    gradients.SIGNAL,
    t=at,
    draws=draws,
    norms=norms,
    seed=seed,
    batch=batch,
    progress=progress,
  )
  features = found.reduced(gsa.features)[:, scene.pool]
  design = shadowed.pool_design(scene)
  own = len(features) - len(design.inside)  # 1 where there is a main model

  def score(
    target: Float[np.ndarray, "n f"],
    shadows: Float[np.ndarray, "s n f"],
    masks: Bool[np.ndarray, "s n"],
  ) -> Float[np.ndarray, " n"]:
    return gsa.score(target, shadows, masks, classifier=classifier, seed=seed)

  scores = matrices.leave_pair_out(score, features[own:], design.inside)
  by_time = scores[:, :, None]
  numbers, _ = evaluate.attack(
    by_time,
    ("all",),
    design,
    calibration=None,
    headline_t=None,
    criterion=criterion,
    bootstrap=bootstrap,
    seed=seed,
  )
  numbers |= {
    "kind": "shadow",
    "models": len(design.inside),
    "images": int(design.report.sum()),
    "attack": "gradients",
    "source": "Pang et al. 2025",
    "draws": draws,
    "options": {"times": at, "norms": norms, "classifier": classifier},
  }
  if own:
    numbers["main"] = shadowed.of_main(
      scene,
      score(features[0], features[1:], design.inside),
      bootstrap=bootstrap,
      seed=seed,
    )
  return Result("gradients", numbers, scores, design, by_time, 0)


def _times(scene: Scene, count: int) -> tuple[int, ...]:
  assert scene.shadows is not None
  config = scene.shadows.models[0].meta["config"]
  steps = config["diffusion"]["schedule"]["steps"]
  return gradients.equidistant(steps, count)

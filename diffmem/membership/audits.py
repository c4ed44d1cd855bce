# SPDX-License-Identifier: Apache-2.0
"""Audits of the stage: canaries, epsilon of one run, sets of images.

Each is a section of `membership.audits`, or None there:

  canaries  exposure of the split's canaries (data.canaries) under the model
  one_run   epsilon lower bounds from each attack's scores, where inclusion
            was by coins (data.split.name="bernoulli")
  sets      how many images together are found, by all attacks' scores

They are about the workdir's own model, or else about its first shadow model,
and about reported images alone. What cannot be is said in "missing".
"""

import os
from typing import Any

import numpy as np

from diffmem.data import canaries as recipes
from diffmem.denoiser import trained
from diffmem.membership import canaries, one_run, sets, targets
from diffmem.membership.learnt import check_keys
from diffmem.membership.scene import Scene
from diffmem.membership.single import Result

KEYS = {
  "canaries": {"t", "draws"},
  "one_run": {"delta", "significance", "outside", "part"},
  "sets": {"sizes", "alpha", "resamples", "learn"},
}


def check(scene: Scene, audits: dict) -> None:
  """ValueError, before anything is computed, for what cannot be."""
  check_keys("membership.audits", audits, set(KEYS))
  for name, keys in KEYS.items():
    check_keys(f"membership.audits.{name}", audits[name], keys)
  options = audits["one_run"]
  if options is not None:
    one_run.check_options(**options)
  options = audits["sets"]
  if options is not None:
    inside, outside = _reported(scene)
    sets.check_sizes(
      len(inside),
      len(outside),
      options["sizes"],
      alpha=options["alpha"],
      resamples=options["resamples"],
      learn=options["learn"],
    )


def run(
  root: str | os.PathLike,
  scene: Scene,
  found: list[Result],
  audits: dict,
  *,
  batch: int,
  seed: int,
  progress: bool = True,
) -> dict[str, Any]:
  """{"canaries": .., "one_run": .., "sets": ..}, each a dict or None."""
  result: dict[str, Any] = dict.fromkeys(KEYS)
  options = audits["canaries"]
  if options is not None:
    result["canaries"] = of_canaries(
      root, scene, **options, batch=batch, seed=seed, progress=progress
    )
  options = audits["one_run"]
  if options is not None:
    result["one_run"] = of_one_run(scene, found, **options, seed=seed)
  options = audits["sets"]
  if options is not None:
    result["sets"] = of_sets(scene, found, **options, seed=seed)
  return result


def of_canaries(
  root: str | os.PathLike,
  scene: Scene,
  *,
  t: int,
  draws: int,
  batch: int,
  seed: int,
  progress: bool = True,
) -> dict[str, Any]:
  """`canaries.measure` of the workdir's own model."""
  if scene.main is None or not scene.split.info.get("canaries"):
    return {"missing": "no model was given canaries: see data.canaries"}
  if targets.kind(scene.main.models[0].meta["config"]) == "GAN":
    return {"missing": "exposure is of a denoiser's loss, the model is a GAN"}
  return {
    "inserted": recipes.trained_on(scene.split)
    - len(scene.split.training_rows),
    **(
      canaries.measure(
        trained.load(root),
        scene.dataset,
        scene.split,
        t=t,
        draws=draws,
        seed=seed,
        batch=batch,
        progress=progress,
      )
      or {}
    ),
  }


def of_one_run(
  scene: Scene,
  found: list[Result],
  *,
  delta: float,
  significance: float,
  outside: float,
  part: float,
  seed: int,
) -> dict[str, Any]:
  """`one_run.audit` of each attack; each bound holds by itself."""
  if scene.main is None or scene.split.info.get("name") != "bernoulli":
    return {
      "missing": "inclusion was not by coins: a bound needs "
      "data.split.name='bernoulli'"
    }
  audited = scene.parts.report
  inside = scene.parts.copies > 0
  result: dict[str, Any] = {"images": int(audited.sum())}
  for one in found:
    if one.numbers["kind"] != "model":
      continue
    scores = one.scores[0]
    rows = np.flatnonzero(audited & np.isfinite(scores))
    options: dict[str, Any] = dict(
      delta=delta, significance=significance, seed=seed
    )
    result[one.name] = {
      **one_run.audit(
        scores[rows], inside[rows], outside=outside, part=part, **options
      ),
      "rates": one_run.rates(scores[rows], inside[rows], **options),
    }
  return result


def of_sets(
  scene: Scene,
  found: list[Result],
  *,
  sizes: tuple[int, ...],
  alpha: float,
  resamples: int,
  learn: float,
  seed: int,
) -> dict[str, Any]:
  """`sets.power` on the scores of all attacks without shadows together."""
  used = [
    one
    for one in found
    if one.numbers["kind"] == "model" and np.isfinite(one.scores[0]).all()
  ]
  inside, outside = _reported(scene)
  features = np.column_stack([one.scores[0] for one in used])
  rows = sets.power(
    features[inside],
    features[outside],
    tuple(sizes),
    alpha=alpha,
    resamples=resamples,
    learn=learn,
    seed=seed,
  )
  return {
    "attacks": [one.name for one in used],
    "alpha": alpha,
    "resamples": resamples,
    "by_size": rows,
  }


def _reported(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
  """Rows of reported members and non-members of the audited model."""
  design = scene.design
  inside = design.inside[0]
  return (
    np.flatnonzero(design.report & inside),
    np.flatnonzero(design.report & ~inside),
  )

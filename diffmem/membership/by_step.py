# SPDX-License-Identifier: Apache-2.0
"""The loss attack on earlier checkpoints: does membership grow with training?

Each step of training that every target still keeps a checkpoint of is
attacked by the mean loss at the headline time, and the mean losses of members
and non-members are told beside it: where they part, memorization begins.
"""

import logging
from typing import Any

import numpy as np

from diffmem import workdir
from diffmem.denoiser import trained
from diffmem.membership import captioned, evaluate, signals, targets
from diffmem.membership.scene import Scene
from diffmem.membership.stored import Wanted

_log = logging.getLogger(__name__)


def run(
  scene: Scene,
  want: Wanted,
  t: int,
  *,
  batch: int,
  bootstrap: int,
  seed: int,
  progress: bool = True,
) -> dict[str, Any]:
  """{"steps": one entry each}, or {"skipped": why}.

  Args:
    scene: who is who.
    want: the loss attack, for its options.
    t: the headline time.
    batch: images at a time.
    bootstrap: resamples behind each interval.
    seed: of the resampling.
    progress: show the rate and the time left.
  """
  kept = [set(trained.steps(model.folder)) for model in scene.targets.models]
  steps = sorted(set.intersection(*kept))
  if len(steps) < 2:
    return {
      "skipped": f"{len(steps)} checkpoints are kept of every model: two or "
      "more are needed"
    }
  found = []
  for step in steps:
    _log.info("membership: the model of step %d", step)
    losses = _losses(scene, want, t, step, batch, progress)
    scores = np.stack([want.scores(values)[:, 0] for values in losses])
    report = np.broadcast_to(scene.design.report, scores.shape)
    inside = scene.design.inside
    means = np.stack([v.mean(axis=(1, 2, 3)) for v in losses])
    found.append(
      {
        "step": step,
        "loss_of_members": float(means[inside & report].mean()),
        "loss_of_non_members": float(means[~inside & report].mean()),
        **evaluate.summary(
          scores, scene.design, bootstrap=bootstrap, seed=seed
        ),
      }
    )
  return {"t": t, "steps": found}


def _losses(
  scene: Scene, want: Wanted, t: int, step: int, batch: int, progress: bool
) -> list[Any]:
  """The losses [n 1 draws a] of every target, kept as other signals are."""
  models, found = scene.targets, []
  images = scene.dataset.take(scene.ids)
  name = f"{want.signal.name}_step_{step}"
  for model in models.models:
    folder = models.root / "membership" / "signals" / model.name
    record = workdir.plain(
      {
        "signal": name,
        "t": [t],
        **want.of_signal,
        "batch": batch,
        "images": workdir.digest(scene.ids),
        "weights": model.weights,  # of the last step; follows from them
      }
    )
    file = folder / f"{name}.json"
    if file.exists() and workdir.read_json(file) != record:
      (folder / name).rmtree(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write_json(file, record)
    denoiser = targets.load(model.folder, step=step)
    found.append(
      signals.compute(
        denoiser,
        captioned.sized(images, denoiser),
        want.attack.signal,
        t=[t],
        batch=batch,
        cond=scene.labels(denoiser),
        ids=scene.ids,
        path=folder / name,
        progress=progress,
        **want.of_signal,
      )
    )
  return found

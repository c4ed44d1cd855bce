# SPDX-License-Identifier: Apache-2.0
"""The inpaint stage: hide a part of targets, let models fill it in, compare.

Writes <root>/inpaint:

results.json  groups of targets with their distances, tests, and the gallery
targets.csv   COLUMNS, one line for each target and model
gallery.npz   of the first `gallery` targets drawn and of those that came
  nearest, in the order of results.json's "gallery": truth, visible, and the
  completion ranked highest by the model that saw the target (`seen`; without
  shadow models, whatever the model attacked) and by the one that did not
  (`not_seen`, zeros without shadow models), uint8 [g h w c] each
done/<digest>/<model>/<id>.npz  of each target: scores [n] and distances [n] of
  all candidates, ids [k] and images [k h w c] of the highest ranked; whole
  files, so that a run goes on where an earlier one stopped, and one with more
  targets makes these alone
"""

import csv
import io
import logging
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmem import keys, processes, workdir
from diffmem.denoiser import Denoiser, trained
from diffmem.extraction import (
  inpaint,
  inpaint_mask,
  inpaint_plan,
  inpaint_results,
)
from diffmem.extraction.inpaint_plan import Plan, Task
from diffmem.extraction.inpaint_results import Found
from diffmem.progress import Progress

_log = logging.getLogger(__name__)

COLUMNS = (
  "target_id",
  "group",
  "model",
  "ranker",
  "copies",
  "label",
  "top",
  "first",
  "best",
  "all",
  "score",
)
_OF_ATTACK = (
  "candidates",
  "batch",
  "stepper",
  "steps",
  "eta",
  "clip",
  "jump",
  "resample",
  "t",
  "draws",
)


@processes.led
def run(
  root: str | os.PathLike,
  *,
  seed: int,
  inpaint: dict,
  progress: bool = True,
) -> None:
  """Makes <root>/inpaint.

  Args:
    root: the workdir; training must have finished, of the shadow models too.
    seed: of the choice of targets and of all noise.
    inpaint: the config section, as a plain dict: mask, targets, keep,
      bootstrap, gallery, and the options of `inpaint.attack`.
    progress: show the rate and the time left.

  Raises:
    FileNotFoundError: a model is not trained, or there is no such mask.
    ValueError: an option, a mask or a model that cannot be used.
  """
  options = inpaint
  _check(options)
  plan = inpaint_plan.read(root, targets=options["targets"], seed=seed)
  known = inpaint_mask.known(options["mask"], plan.dataset.images.shape[1:])
  inputs = {
    "weights": workdir.digest(plan.weights),
    "split": plan.split.digest,
    "dataset": plan.dataset.info["sha256"],
    "mask": workdir.digest(known),
  }
  made_of = {k: options[k] for k in (*_OF_ATTACK, "keep")}
  digest = workdir.digest([inputs, seed, made_of])[:16]
  config = {"seed": seed, "inpaint": options}
  with workdir.stage(
    root, "inpaint", config=config, inputs=inputs, replace=True
  ) as stage:
    if stage.finished:
      _log.info("inpaint: finished before, kept (%s)", stage.folder)
      return
    done = stage.folder / "done" / digest
    _fill(done, plan, known, options, seed, progress)
    found = [_found(done, task) for task in plan.tasks]
    shown = gallery(found, options["gallery"])
    results = inpaint_results.summary(
      found, bootstrap=options["bootstrap"], seed=seed
    )
    results |= {
      "paired": plan.paired,
      "ranked_by": "loss ratio" if plan.tasks[0].ranker else "loss",
      "mask": options["mask"],
      "hidden": int((~known).sum()),
      "pixels": int(known.size),
      "candidates": options["candidates"],
      "keep": options["keep"],
      "gallery": [about for about, _ in shown],
    }
    pictures = _pictures(done, plan, known, [pair for _, pair in shown])
    workdir.write_bytes(stage.folder / "gallery.npz", pictures)
    workdir.write_bytes(stage.folder / "targets.csv", _table(plan, found))
    workdir.write_json(stage.folder / "results.json", results)
    stage.record("targets", len({task.target for task in plan.tasks}))


def _check(options: dict) -> None:
  for name in ("keep", "bootstrap"):
    if options[name] < 1:
      raise ValueError(f"inpaint.{name} = {options[name]}, expected at least 1")
  if options["keep"] > options["candidates"]:
    raise ValueError(
      f"inpaint.keep = {options['keep']}, but there are "
      f"inpaint.candidates = {options['candidates']}"
    )
  if options["gallery"] < 0:
    raise ValueError(
      f"inpaint.gallery = {options['gallery']}, expected 0 or more"
    )


def _fill(folder, plan: Plan, known, options: dict, seed: int, progress: bool):
  """Every target that is missing, model by model."""
  missing = [t for t in plan.tasks if not _file(folder, t).exists()]
  missing.sort(key=lambda task: (task.model, task.ranker or ""))
  key = keys.stream(keys.root(seed), "inpaint")
  models = _Models(plan)
  attack = None
  with Progress(
    len(plan.tasks),
    what="inpaint",
    unit="targets",
    done=len(plan.tasks) - len(missing),
    enabled=progress,
  ) as bar:
    for task in missing:
      model = models.get(task.model)
      if attack is None:
        settings = {name: options[name] for name in _OF_ATTACK}
        attack = inpaint.attack(model, known, **settings)
      image = plan.dataset.take([task.target])[0]
      made = attack(
        model.params,
        image,
        keys.stream(key, "target", task.target),
        models.get(task.ranker).params if task.ranker else None,
        _cond(plan, model, task),
      )
      _write(folder, task, made, image, known, options["keep"])
      bar.update(1)


class _Models:
  """Weights on the devices, those of the two models used last."""

  def __init__(self, plan: Plan):
    self._plan = plan
    self._kept: dict[str, Denoiser] = {}

  def get(self, name: str) -> Denoiser:
    if name not in self._kept:
      if len(self._kept) == 2:
        del self._kept[next(iter(self._kept))]
      self._kept[name] = trained.load(self._plan.folders[name])
    self._kept[name] = self._kept.pop(name)  # the last used, last
    return self._kept[name]


def _cond(plan: Plan, model: Denoiser, task: Task) -> Any:
  """The target's class, for a model of classes: it counts as known."""
  if model.num_classes is None or plan.dataset.labels is None:
    return None
  return plan.dataset.labels[plan.dataset.rows([task.target])][0].astype(
    np.int32
  )


def _file(folder, task: Task):
  return folder / task.model / f"{task.target}.npz"


def _write(folder, task: Task, made, image, known, keep: int) -> None:
  best = made.best(keep)
  buffer = io.BytesIO()
  np.savez(
    buffer,
    scores=made.scores,
    distances=inpaint.distances(made.images, image, known),
    ids=best,
    images=made.images[best],
  )
  file = _file(folder, task)
  file.parent.mkdir(parents=True, exist_ok=True)
  workdir.write_bytes(file, buffer.getvalue())


def _read(folder, task: Task) -> dict[str, np.ndarray]:
  file = _file(folder, task)
  try:
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
      return dict(arrays)
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
    raise ValueError(
      f"{file} cannot be read ({e}); delete it and rerun diffmem-inpaint"
    ) from e


def _found(folder, task: Task) -> Found:
  kept = _read(folder, task)
  top = kept["distances"][kept["ids"]]
  return Found(
    task,
    top=float(top.mean()),
    first=float(top[0]),
    best=float(top.min()),
    all=float(kept["distances"].mean()),
    score=float(kept["scores"][kept["ids"][0]]),
  )


def gallery(
  found: Sequence[Found], count: int
) -> list[tuple[dict, tuple[Task, Task | None]]]:
  """What is shown: (about it, its tasks); the nearest, and the first drawn."""
  other = {
    f.task.target: f for f in found if f.task.group == inpaint_plan.NOT_SEEN
  }
  shown = []
  groups = dict.fromkeys(f.task.group for f in found)
  for group in groups:
    if group == inpaint_plan.NOT_SEEN:
      continue  # beside those that saw them
    of = [f for f in found if f.task.group == group]
    nearest = sorted(of, key=lambda f: f.first)[: -(-count // 2)]
    drawn = [f for f in of if f not in nearest][: count // 2]
    for f in nearest + drawn:
      twin = other.get(f.task.target)
      about = {
        "id": f.task.target,
        "group": group,
        "copies": f.task.copies,
        "chosen": "nearest" if f in nearest else "drawn",
        "seen": f.first,
        "not_seen": None if twin is None else twin.first,
      }
      shown.append((about, (f.task, None if twin is None else twin.task)))
  return shown


def _pictures(folder, plan: Plan, known, pairs) -> bytes:
  truth = plan.dataset.take([task.target for task, _ in pairs])
  seen, not_seen = np.zeros_like(truth), np.zeros_like(truth)
  for row, (task, twin) in enumerate(pairs):
    seen[row] = _read(folder, task)["images"][0]
    if twin is not None:
      not_seen[row] = _read(folder, twin)["images"][0]
  buffer = io.BytesIO()
  visible = np.where(known[None], truth, 128).astype(np.uint8)
  np.savez(buffer, truth=truth, visible=visible, seen=seen, not_seen=not_seen)
  return buffer.getvalue()


def _table(plan: Plan, found: Sequence[Found]) -> bytes:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\r\n")
  writer.writerow(COLUMNS)
  labels = plan.dataset.labels
  for f in found:
    row = plan.dataset.rows([f.task.target])[0]
    writer.writerow(
      [
        f.task.target,
        f.task.group,
        f.task.model,
        f.task.ranker or "",
        f.task.copies,
        "" if labels is None else int(labels[row]),
        *(f"{getattr(f, key):.6f}" for key in COLUMNS[6:]),
      ]
    )
  return text.getvalue().encode()

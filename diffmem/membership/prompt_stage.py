# SPDX-License-Identifier: Apache-2.0
"""Detectors of memorized prompts on the captions of a workdir.

The unit is the caption. *Planted* are captions of images that stand in
training more than once, *ordinary* those of training images seen once, of
which `ordinary` are drawn; *unseen* are captions that no training image has,
the control: nothing of theirs can be memorized, so that ordinary captions
that score higher were learnt, if not memorized.

Options of detectors are fixed in advance; what fewer steps and draws would
have given is told beside it, as exploratory. Nothing is fitted.

Writes <root>/membership/prompts.csv, one line a caption, highest scores of the
first detector first, and gives what results.json holds under "_prompts".
"""

import csv
import io
import os
from typing import Any

import numpy as np

from diffmem import stats, workdir
from diffmem.arrays import Float, Int
from diffmem.data import captions, streams
from diffmem.denoiser import Denoiser, trained
from diffmem.membership import (
  DETECTORS,
  captioned,
  check_detector,
  magnitude,
  prompt_scores,
)
from diffmem.membership.learnt import check_keys
from diffmem.membership.scene import Scene

KINDS = ("planted", "ordinary", "unseen")
FPRS = (0.01, 0.001)


def check(section: dict[str, Any] | None) -> None:
  """ValueError for a detector or option that is not, or that is missing."""
  check_keys("membership.prompts", section, {"ordinary", "unseen", "detectors"})
  if section is None:
    return
  for key, least in (("ordinary", 1), ("unseen", 0)):
    if section[key] < least:
      raise ValueError(
        f"membership.prompts.{key} = {section[key]}, expected at least {least}"
      )
  if not section["detectors"]:
    raise ValueError(
      f"membership.prompts.detectors is empty: name one of "
      f"{', '.join(DETECTORS)}"
    )
  for name, options in section["detectors"].items():
    check_detector(name)
    check_keys(
      f"membership.prompts.detectors.{name}",
      options,
      set(DETECTORS[name].defaults),
    )


def run(
  root: str | os.PathLike,
  scene: Scene,
  section: dict[str, Any] | None,
  *,
  batch: int,
  bootstrap: int,
  seed: int,
  progress: bool = True,
) -> dict[str, Any] | None:
  """Scores and numbers of every detector; None where there is no section.

  {"missing": why} where there is nothing to score.
  """
  if section is None:
    return None
  if scene.main is None:
    return {"missing": "there is no model but the shadows"}
  denoiser = trained.load(root)
  if not captioned.takes_captions(denoiser):
    return {"missing": "the model takes no captions"}
  known = captions.read(workdir.whole(root), scene.dataset)
  copies, groups = _groups(scene, known, section, seed)
  if not len(groups["planted"]):
    return {"missing": "no caption is of an image that was planted"}
  rows = np.concatenate([groups[kind] for kind in KINDS])
  kinds = np.repeat(KINDS, [len(groups[kind]) for kind in KINDS])
  found: dict[str, Any] = {
    "prompts": {kind: len(groups[kind]) for kind in KINDS},
    "detectors": {},
  }
  columns = {}
  for name, options in section["detectors"].items():
    columns[name], numbers = _one(
      root,
      denoiser,
      known.cond(rows),
      kinds,
      name,
      options,
      rows=rows,
      weights=scene.inputs["weights"],
      batch=batch,
      bootstrap=bootstrap,
      seed=seed,
      progress=progress,
    )
    found["detectors"][name] = numbers
  text = _table(known.texts, rows, kinds, copies[rows], columns)
  file = workdir.path(root) / "membership" / "prompts.csv"
  workdir.write_bytes(file, text.encode())
  return found


def _groups(
  scene: Scene, known: captions.Captions, section: dict[str, Any], seed: int
) -> tuple[Int[np.ndarray, " c"], dict[str, Int[np.ndarray, " k"]]]:
  """(largest copies of an image of each caption, captions of each kind)."""
  of_image = known.ids[scene.dataset.rows(scene.ids)]
  copies = np.zeros(len(known), np.int64)
  np.maximum.at(copies, of_image, scene.parts.copies)
  there = np.zeros(len(known), bool)
  there[of_image] = True
  groups = {
    "planted": np.flatnonzero(copies > 1),
    "ordinary": np.flatnonzero(copies == 1),
    "unseen": np.flatnonzero(there & (copies == 0)),
  }
  for kind in ("ordinary", "unseen"):
    rows, most = groups[kind], section[kind]
    if len(rows) > most:
      order = streams.permutation(len(rows), seed, f"membership {kind} prompts")
      groups[kind] = np.sort(rows[order[:most]])
  return copies, groups


def _one(
  root: str | os.PathLike,
  denoiser: Denoiser,
  cond: Any,
  kinds: np.ndarray,
  name: str,
  options: dict[str, Any],
  *,
  rows: Int[np.ndarray, " p"],
  weights: str,
  batch: int,
  bootstrap: int,
  seed: int,
  progress: bool,
) -> tuple[Float[np.ndarray, " p"], dict[str, Any]]:
  """(scores, numbers) of one detector; its values are kept as signals are."""
  detector = DETECTORS[name]
  folder = workdir.path(root) / "membership" / "signals" / "main"
  kept = f"prompts_{name}"
  record = workdir.plain(
    {
      **{"signal": kept, **options, "seed": seed, "batch": batch},
      "captions": workdir.digest(rows),
      "weights": weights,
    }
  )
  file = folder / f"{kept}.json"
  if file.exists() and workdir.read_json(file) != record:
    (folder / kept).rmtree(missing_ok=True)  # few: made anew in no time
  folder.mkdir(parents=True, exist_ok=True)
  workdir.write_json(file, record)
  values = prompt_scores.values(
    detector,
    denoiser,
    cond,
    ids=rows,
    path=folder / kept,
    batch=batch,
    progress=progress,
    seed=seed,
    **options,
  )[:]
  planted, ordinary, unseen = (kinds == kind for kind in KINDS)
  resampled: dict[str, Any] = {"resamples": bootstrap, "seed": seed}

  def told(scores: Float[np.ndarray, " p"]) -> dict[str, Any]:
    return stats.summary(
      scores[planted], scores[ordinary], fprs=FPRS, **resampled
    )

  scores = detector.scores(values)
  numbers = {
    **told(scores),
    "source": detector.source,
    "options": options,
    "queries": detector.queries(**options),
    "ordinary_against_unseen": None,
    "exploratory": [],
  }
  if unseen.any():
    numbers["ordinary_against_unseen"] = stats.summary(
      scores[ordinary], scores[unseen], fprs=(), **resampled
    )["auc"]
  if detector is magnitude.DETECTOR:
    numbers["exploratory"] = [
      {"steps": steps, "draws": draws, **told(fewer)}
      for (steps, draws), fewer in magnitude.by_steps(values).items()
    ]
  return scores, numbers


def _table(
  texts: tuple[str, ...],
  rows: Int[np.ndarray, " p"],
  kinds: np.ndarray,
  copies: Int[np.ndarray, " p"],
  scores: dict[str, Float[np.ndarray, " p"]],
) -> str:
  out = io.StringIO(newline="")
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(["caption_id", "caption", "kind", "copies", *scores])
  first = next(iter(scores.values()))
  for i in np.argsort(-first, kind="stable"):
    row = [f"{values[i]:.9g}" for values in scores.values()]
    writer.writerow([rows[i], texts[rows[i]], kinds[i], copies[i], *row])
  return out.getvalue()

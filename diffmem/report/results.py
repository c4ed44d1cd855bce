# SPDX-License-Identifier: Apache-2.0
"""What the stages left in a workdir, as plain values.

A stage that wrote a meta.json counts when that says it finished; files that
somebody else put there, without one, count as they are.
"""

import csv
import dataclasses
import io
import json
import os
import re
import zipfile
from typing import Any

import numpy as np

from diffmem import workdir

STAGES = (
  "train",
  "sample",
  "distances",
  "extraction",
  "prompts",
  "side",
  "inpaint",
  "measures",
  "membership",
  "quality",
)
SECTIONS = (
  "seed",
  "data",
  "models",
  "diffusion",
  "train",
  "sample",
  "distances",
  "extraction",
  "membership",
)  # of a run that trains; together they make its config
# Stages with a section of their own, and their tables.
PARTS = {"inpaint": "targets.csv", "measures": "", "quality": ""}
_PAIRS = {
  "matches": ("matches.csv", "match"),
  "near_misses": ("near_misses.csv", "near"),
  "false_matches": ("held_out_matches.csv", "false"),
  "second": ("second_matches.csv", "second"),
  "second_false": ("second_held_out_matches.csv", "second_false"),
}


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Generations beside their nearest reference, nearest first.

  rows: the table, as strings, those with pictures first. generations,
  references: uint8 images [n h w c] of its first n rows; None where there is
  no gallery.
  """

  rows: list[dict[str, str]]
  generations: np.ndarray | None = None
  references: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Part:
  """A stage of PARTS: results.json, its table, and gallery.npz."""

  results: dict
  rows: list[dict[str, str]]
  pictures: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Results:
  """Everything a report is made from; None or empty where absent.

  metas: meta.json of each finished stage, and the manifest of shadow models,
  if there are some, as "shadows". unfinished: stages that began and did not
  end. curves: {attack: (fpr, tpr)}. previews: (step, PNG).
  membership: attacks by name; membership_aside: what is told beside them, by
  keys that begin with "_"; membership_pictures: easiest and hardest images.
  left_out: files that an import skipped, as
  {"name", "reason"}. prompts, ranking, prompt_pictures: the attack by prompt,
  its flagged prompts, best first, and their images. beside: results of the
  same attack in the run whose prompts this one was asked, if it was. side,
  side_pictures: the attack by surrogate conditions, and its clusters. removed,
  removed_pictures: what deduplication took out of training. parts: of PARTS,
  by stage.
  """

  metas: dict[str, dict]
  unfinished: tuple[str, ...]
  data: dict | None
  extraction: dict | None
  pairs: dict[str, Pairs]
  membership: dict | None
  curves: dict[str, tuple[np.ndarray, np.ndarray]]
  metrics: list[dict]
  previews: list[tuple[int, bytes]]
  tables: dict[str, str]
  membership_aside: dict = dataclasses.field(default_factory=dict)
  membership_pictures: dict[str, np.ndarray] = dataclasses.field(
    default_factory=dict
  )
  left_out: list[dict[str, str]] = dataclasses.field(default_factory=list)
  prompts: dict | None = None
  beside: dict | None = None
  ranking: list[dict[str, str]] = dataclasses.field(default_factory=list)
  prompt_pictures: dict[str, np.ndarray] = dataclasses.field(
    default_factory=dict
  )
  side: dict | None = None
  side_pictures: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  removed: list[dict[str, str]] = dataclasses.field(default_factory=list)
  removed_pictures: dict[str, np.ndarray] = dataclasses.field(
    default_factory=dict
  )
  parts: dict[str, Part] = dataclasses.field(default_factory=dict)

  @property
  def aside(self) -> bool:
    """Whether nothing but stages of PARTS was asked for."""
    asked = {*self.metas, *self.unfinished} & {"extraction", "membership"}
    known = self.extraction is not None or self.membership is not None
    return bool({*self.parts} - {"quality"}) and not (asked or known)

  @property
  def complete(self) -> bool:
    """Whether the config runs all of it again."""
    return all(key in self.config for key in SECTIONS) or (
      self.aside and "train" in self.config
    )

  @property
  def outside(self) -> bool:
    """Whether the images were made elsewhere: nothing was trained here."""
    known = (*self.metas, *self.unfinished)
    return "sample" in known and "train" not in known

  @property
  def config(self) -> dict[str, Any]:
    """The sections that made these results, in the order of the stages."""
    merged = {}
    for meta in self.metas.values():
      merged |= meta.get("config", {})
    known = {key: merged[key] for key in SECTIONS if key in merged}
    return known | {k: v for k, v in merged.items() if k not in known}


def read(root: str | os.PathLike) -> Results:
  """Reads a workdir.

  Raises:
    FileNotFoundError: no stage has left anything there.
    ValueError: a file is damaged; names it.
  """
  root = workdir.path(root)
  metas, unfinished = {}, []
  shadows = _json(root / "shadows" / "manifest.json")
  if shadows is None:
    shadows = _shadows(root / "shadows")
  if shadows is not None:
    metas["shadows"] = shadows
  for name in STAGES:
    meta = _json(root / name / "meta.json")
    if meta is None:
      continue
    if meta.get("status", "finished") == "finished":
      metas[name] = meta
    else:
      unfinished.append(name)
  extraction = membership = None
  pairs, curves, tables = {}, {}, {}
  if "extraction" not in unfinished:
    extraction = _json(root / "extraction" / "results.json")
  if extraction is not None:
    pairs = _pairs(root / "extraction")
    tables["matches"] = _text(root / "extraction" / "matches.csv")
  if "membership" not in unfinished:
    membership = _json(root / "membership" / "results.json")
  aside, members = {}, {}
  if membership is not None:
    aside = {k: v for k, v in membership.items() if k.startswith("_")}
    membership = {k: v for k, v in membership.items() if k not in aside}
    curves = _curves(root / "membership" / "roc.npz", membership)
    members = read_arrays(root / "membership" / "gallery.npz")
    tables["scores"] = _text(root / "membership" / "scores.csv")
  prompts = None
  if "prompts" not in unfinished:
    prompts = _json(root / "prompts" / "results.json")
  side = None
  if "side" not in unfinished:
    side = _json(root / "side" / "results.json")
  found = Results(
    side=side,
    side_pictures=read_arrays(root / "side" / "gallery.npz") if side else {},
    metas=metas,
    unfinished=tuple(unfinished),
    data=_json(root / "data" / "meta.json"),
    extraction=extraction,
    pairs=pairs,
    membership=membership,
    membership_aside=aside,
    membership_pictures=members,
    left_out=_rows(root / "sample" / "left_out.csv"),
    prompts=prompts,
    beside=_beside(root) if prompts else None,
    ranking=_rows(root / "prompts" / "ranking.csv") if prompts else [],
    prompt_pictures=read_arrays(root / "prompts" / "gallery.npz")
    if prompts
    else {},
    removed=_rows(root / "dedup" / "removed.csv"),
    removed_pictures=_gallery(root / "dedup"),
    curves=curves,
    metrics=_metrics(root / "train" / "metrics.jsonl"),
    previews=_previews(root / "train" / "previews"),
    tables=tables,
    parts={
      name: Part(
        found,
        _rows(root / name / table) if table else [],
        _gallery(root / name),
      )
      for name, table in PARTS.items()
      if name not in unfinished
      and (found := _json(root / name / "results.json")) is not None
    },
  )
  if not (metas or unfinished or extraction or membership or found.metrics):
    raise FileNotFoundError(
      f"{root} holds no results to report; run diffmem-audit with "
      f"--workdir={root}, or single stages, first"
    )
  return found


def _beside(root) -> dict | None:
  """The prompts results of the run that chose this one's prompts."""
  meta = _json(root / "choose" / "meta.json") or {}
  table = meta.get("config", {}).get("choose", {}).get("table")
  if table is None:
    return None
  return _json(workdir.path(table).parent.parent / "prompts" / "results.json")


def _shadows(folder) -> dict | None:
  """A record of shadow models where the membership stage left none."""
  files = sorted(folder.glob("*/train/meta.json")) if folder.exists() else []
  metas = [workdir.read_json(file) for file in files]
  metas = [meta for meta in metas if meta.get("status") == "finished"]
  if not metas:
    return None
  config = dict(metas[0]["config"])
  split = {**config["data"]["split"], "shadow": None}  # as of all together
  config["data"] = {**config["data"], "split": split}
  seconds = sum(meta["seconds"] for meta in metas)
  return {
    **metas[0],
    "config": config,
    "shadows": len(metas),
    "seconds": round(seconds, 3),
    "images": None,
    "weights": None,
  }


def _gallery(folder) -> dict[str, np.ndarray]:
  return read_arrays(folder / "gallery.npz")


def _json(file) -> dict | None:
  return workdir.read_json(file) if file.exists() else None


def _text(file) -> str:
  """Line ends as they are: tables are copied unchanged."""
  return file.read_bytes().decode() if file.exists() else ""


def _rows(file) -> list[dict[str, str]]:
  return list(csv.DictReader(io.StringIO(_text(file), newline="")))


def _pairs(folder) -> dict[str, Pairs]:
  """The three tables, each with the images of its first rows."""
  images = read_arrays(folder / "gallery.npz")
  found = {}
  for name, (table, key) in _PAIRS.items():
    rows = _rows(folder / table)
    generations = images.get(f"{key}_generations")
    references = images.get(f"{key}_training")
    if generations is None or references is None:
      found[name] = Pairs(rows)
      continue
    shown = images.get(f"{key}_rows", np.arange(len(generations)))
    shown = shown[shown < len(rows)]
    others = np.setdiff1d(np.arange(len(rows)), shown)
    found[name] = Pairs(
      [rows[i] for i in [*shown, *others]],
      generations[: len(shown)],
      references[: len(shown)],
    )
  return found


def _curves(file, membership: dict) -> dict:
  arrays = read_arrays(file)
  return {
    name: (arrays[f"{name}_fpr"], arrays[f"{name}_tpr"])
    for name in membership
    if f"{name}_fpr" in arrays and f"{name}_tpr" in arrays
  }


def read_arrays(file) -> dict[str, np.ndarray]:
  """The arrays of an .npz file, none where there is no file.

  Raises ValueError for a file that cannot be read.
  """
  if not file.exists():
    return {}
  try:
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
      return dict(arrays)
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
    raise ValueError(
      f"{file} cannot be read ({e}); delete its folder and rerun its stage"
    ) from e


def _metrics(file) -> list[dict]:
  """Whole lines only: a run that goes on may have left half a line."""
  lines = []
  for line in _text(file).splitlines():
    try:
      lines.append(json.loads(line))
    except ValueError:
      continue
  return [line for line in lines if isinstance(line, dict)]


def _previews(folder) -> list[tuple[int, bytes]]:
  found = []
  for file in folder.glob("step_*.png") if folder.exists() else ():
    step = re.fullmatch(r"step_(\d+)\.png", file.name)
    if step:
      found.append((int(step[1]), file.read_bytes()))
  return sorted(found)

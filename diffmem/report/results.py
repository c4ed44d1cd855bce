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

STAGES = ("train", "sample", "distances", "extraction", "membership")
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
)
_PAIRS = {
  "matches": ("matches.csv", "match"),
  "near_misses": ("near_misses.csv", "near"),
  "false_matches": ("held_out_matches.csv", "false"),
}


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Generations beside their nearest reference, nearest first.

  rows: the table, as strings. generations, references: uint8 images
  [n h w c] of its first n rows; None where there is no gallery.
  """

  rows: list[dict[str, str]]
  generations: np.ndarray | None = None
  references: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Results:
  """Everything a report is made from; None or empty where absent.

  metas: meta.json of each finished stage. unfinished: stages that began
  and did not end. curves: {attack: (fpr, tpr)}. previews: (step, PNG).
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
  if membership is not None:
    curves = _curves(root / "membership" / "roc.npz", membership)
    tables["scores"] = _text(root / "membership" / "scores.csv")
  found = Results(
    metas=metas,
    unfinished=tuple(unfinished),
    data=_json(root / "data" / "meta.json"),
    extraction=extraction,
    pairs=pairs,
    membership=membership,
    curves=curves,
    metrics=_metrics(root / "train" / "metrics.jsonl"),
    previews=_previews(root / "train" / "previews"),
    tables=tables,
  )
  if not (metas or unfinished or extraction or membership or found.metrics):
    raise FileNotFoundError(
      f"{root} holds no results to report; run diffmem-audit with "
      f"--workdir={root}, or single stages, first"
    )
  return found


def _json(file) -> dict | None:
  return workdir.read_json(file) if file.exists() else None


def _text(file) -> str:
  """Line ends as they are: tables are copied unchanged."""
  return file.read_bytes().decode() if file.exists() else ""


def _pairs(folder) -> dict[str, Pairs]:
  """The three tables, each with the images of its first rows."""
  images = _arrays(folder / "gallery.npz")
  found = {}
  for name, (table, key) in _PAIRS.items():
    rows = list(csv.DictReader(io.StringIO(_text(folder / table))))
    generations = images.get(f"{key}_generations")
    references = images.get(f"{key}_training")
    if generations is None or references is None:
      found[name] = Pairs(rows)
      continue
    shown = min(len(rows), len(generations), len(references))
    found[name] = Pairs(rows, generations[:shown], references[:shown])
  return found


def _curves(file, membership: dict) -> dict:
  arrays = _arrays(file)
  return {
    name: (arrays[f"{name}_fpr"], arrays[f"{name}_tpr"])
    for name in membership
    if f"{name}_fpr" in arrays and f"{name}_tpr" in arrays
  }


def _arrays(file) -> dict[str, np.ndarray]:
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

# SPDX-License-Identifier: Apache-2.0
"""A workdir as one row of a comparison: plain values, None where not measured.

What differs between workdirs beside the model is found here too: numbers on
other data, by another rule or budget, do not compare, and that is said.
"""

import csv
import dataclasses
import io
import os
from typing import Any

import numpy as np

from diffmem import stats, workdir
from diffmem.report import claims, results
from diffmem.report.results import Results

RULE = ("alpha", "neighbours", "centring", "false_match_rate")


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """One workdir.

  Attributes:
    name: as it is called on the page.
    path: the workdir.
    results: what its stages left.
    members, copies: ids in training, and how often; None where the split is
      not there. held_out: ids outside.
    matched: {id: generations that match it}.
    scores: {attack: {id: (member, score)}} of images that are reported on.
  """

  name: str
  path: str
  results: Results
  members: np.ndarray | None
  copies: np.ndarray | None
  held_out: np.ndarray | None
  matched: dict[int, int]
  scores: dict[str, dict[int, tuple[bool, float]]]

  @property
  def data(self) -> str | None:
    """sha256 of the images; None where they are not known."""
    return ((self.results.data or {}).get("dataset") or {}).get("sha256")

  @property
  def quality(self) -> dict[str, Any] | None:
    """results.json of the quality stage."""
    part = self.results.parts.get("quality")
    return None if part is None else part.results


def read(path: str | os.PathLike, name: str) -> Row:
  """Reads one workdir; errors are those of `results.read`."""
  root = workdir.path(path)
  found = results.read(root)
  split = results.read_arrays(root / "data" / "split.npz")
  matched = {}
  if found.extraction is not None and "matches" in found.pairs:
    matched = {
      int(row["training_id"]): int(row["hits"] or 0)
      for row in found.pairs["matches"].rows
    }
  return Row(
    name=name,
    path=os.fspath(path),
    results=found,
    members=split.get("members"),
    copies=split.get("copies"),
    held_out=split.get("held_out"),
    matched=matched,
    scores=_scores(found),
  )


def _scores(found: Results) -> dict[str, dict[int, tuple[bool, float]]]:
  """Of the images that are reported on, where each has one score."""
  rows = list(csv.DictReader(io.StringIO(found.tables.get("scores") or "")))
  kept: dict[str, dict[int, tuple[bool, float]]] = {}
  for row in rows:
    if row.get("used", "report") != "report" or not row.get("member"):
      continue
    if row.get("copies") not in ("0", "1", None):
      continue  # planted ones are told apart in every attack
    for name in claims.scored(found.membership or {}):
      if row.get(name):
        entry = (row["member"] == "1", float(row[name]))
        kept.setdefault(name, {})[int(row["id"])] = entry
  return kept


def facts(
  row: Row, budget: int | None, with_copies: bool = False
) -> dict[str, Any]:
  """The numbers of one row of the tables.

  budget: generations that all rows have at least, for what is found in as many.
  with_copies: see `alike_in_training`.
  """
  return {
    "name": row.name,
    "workdir": row.path,
    "model": _model(row.results),
    "extraction": _extraction(row, budget),
    "membership": _membership(row.results),
    "quality": _quality(row, with_copies),
    "cost": _cost(row.results),
  }


def budget(rows: list[Row]) -> int | None:
  """The fewest generations of any row that has some; None without any."""
  counts = [
    row.results.extraction["generated"]
    for row in rows
    if row.results.extraction is not None
  ]
  return min(counts) if counts else None


def _model(found: Results) -> str | None:
  models = found.config.get("models") or {}
  for key in ("name", "family"):  # of a denoiser, of a GAN
    if key in models:
      return models[key]
  return "from outside" if found.outside else None


def _extraction(row: Row, at: int | None) -> dict[str, Any] | None:
  found = row.results.extraction
  if found is None:
    return None
  held_out = found["held_out"]
  hits = np.array(list(row.matched.values()), np.int64)
  equal = None
  # Hits of each id say what fewer generations would have found.
  if at is not None and len(hits) == found["unique"]:
    equal = float(stats.rarefaction(hits, found["generated"], [at])[0])
  return {
    "generated": found["generated"],
    "unique": found["unique"],
    "searched": found["searched"],
    "interval": found.get("unique_interval"),
    "held_out": held_out["unique"] if held_out["searched"] else None,
    "held_out_searched": held_out["searched"],
    "held_out_interval": held_out.get("unique_interval"),
    "matching": int(hits.sum()),
    "budget": at,
    "unique_at_budget": equal,
    "planted": found.get("planted") or {},
    "delta": found["rule"].get("delta"),
  }


def _membership(found: Results) -> dict[str, Any] | None:
  if not found.membership:
    return None
  attacks = {
    name: {
      key: attack.get(key)
      for key in ("auc", "tpr@0.01", "tpr@0.001", "members", "non_members")
    }
    for name, attack in claims.scored(found.membership).items()
  }
  return {"leading": claims.leading(found.membership), "attacks": attacks}


def alike_in_training(rows: list[Row]) -> bool:
  """Whether quality is the distance to what was trained on, with its copies.

  It is where images are planted and all runs trained on the same: a model that
  learns the copies moves away from images without them. Without copies, or
  where they differ, it is the distance to held-out images.
  """
  measured = [row for row in rows if row.quality is not None]
  training = {_training(row) for row in measured}
  return len(training) == 1 and all(
    (row.quality or {}).get("to_training") for row in measured
  )


def _training(row: Row) -> str:
  """sha256 of who is in training, how often, and of canaries."""
  copies = None if row.copies is None else row.copies.tolist()
  made = (row.results.data or {}).get("split") or {}
  return workdir.digest([_split(row), copies, made.get("canaries")])


def reference(found: dict[str, Any], with_copies: bool) -> str:
  """The pair of sets in results.json of quality that says how good a run is."""
  if with_copies:
    return "to_training"
  return "to_held_out" if found["to_held_out"] else "to_members"


def _quality(row: Row, with_copies: bool) -> dict[str, Any] | None:
  found = row.quality
  if found is None:
    return None
  loss = found.get("loss") or {}
  pair = reference(found, with_copies)
  floor = found["floor"]
  if pair == "to_held_out":
    floor = found.get("training_to_held_out") or floor
  return {
    "features": found["features"]["name"],
    "images": found["images"],
    # Results of an older version have no pair with copies.
    "to_training": found.get("to_training"),
    "to_held_out": found["to_held_out"],
    "to_members": found["to_members"],
    "reference": pair,
    "frechet": found[pair]["frechet"],
    # Perfect samples of what was trained on are at the distance that n adds.
    "floor": found[pair]["bias"].get("frechet")
    if with_copies
    else floor and floor["frechet"] and floor["frechet"][0],
    "loss": loss.get("held_out"),
    "gap": loss.get("gap"),
  }


def _cost(found: Results) -> dict[str, Any]:
  train, sample = (found.metas.get(k) or {} for k in ("train", "sample"))
  training = (train.get("config") or {}).get("train") or {}
  generated = sample.get("generated") or (found.extraction or {}).get(
    "generated"
  )
  # Images from outside were drawn elsewhere.
  seconds = sample.get("seconds") if train else None
  seen = None
  if "steps" in training and "batch" in training:
    seen = training["steps"] * training["batch"]
  return {
    "parameters": train.get("parameters"),
    "train_seconds": train.get("seconds"),
    "images_seen": seen,
    "sample_seconds": seconds,
    "images_per_second": generated / seconds if seconds and generated else None,
    "hardware": _hardware(train or sample),
  }


def _hardware(meta: dict[str, Any]) -> str | None:
  machine = meta.get("hardware") or {}
  if not machine:
    return None
  cpus = machine.get("cpus")
  return f"{machine.get('devices') or machine.get('machine')}, {cpus} cores"


def differences(rows: list[Row]) -> list[dict[str, Any]]:
  """What is not alike in all rows: {"what", "values", "matters"}.

  values: one a row, None where it is not known; matters: why numbers then do
  not compare.
  """
  kinds = [
    ("images (sha256)", _data, "nothing of these rows compares"),
    (
      "who is in training",
      _split,
      "extraction and membership are of other images",
    ),
    ("training images, with copies", _images, "training had other copies"),
    ("images seen in training", _seen, "training took another budget"),
    ("generations searched", _generated, "compare at the common number"),
    ("rule of extraction", _rule, "matches mean something else"),
    ("features of quality", _features, "their numbers do not compare"),
    ("images of quality", _images_of_quality, "they depend on the number"),
    ("images attacked", _attacked, "intervals and rates rest on others"),
    ("machine", _machine, "seconds do not compare"),
    ("version", _version, "definitions may have changed"),
  ]
  found = []
  for what, value, matters in kinds:
    values = [value(row) for row in rows]
    if len({v for v in values if v is not None}) > 1:
      found.append({"what": what, "values": values, "matters": matters})
  return found


def _data(row: Row) -> str | None:
  return row.data and row.data[:12]


def _split(row: Row) -> str | None:
  if row.members is None or row.held_out is None:
    return None
  ids = [row.members.tolist(), row.held_out.tolist()]
  return f"{len(row.members)} ({workdir.digest(ids)[:8]})"


def _images(row: Row) -> int | None:
  return None if row.copies is None else int(row.copies.sum())


def _seen(row: Row) -> int | None:
  return _cost(row.results)["images_seen"]


def _generated(row: Row) -> int | None:
  found = row.results.extraction
  return None if found is None else found["generated"]


def _rule(row: Row) -> str | None:
  found = row.results.extraction
  if found is None:
    return None
  rule = found["rule"]
  mirror = (row.results.config.get("distances") or {}).get("mirror")
  said = [f"{key} {rule[key]}" for key in RULE if key in rule]
  return ", ".join([*said, *(["mirrored too"] if mirror else [])])


def _features(row: Row) -> str | None:
  found = row.quality
  if found is None:
    return None
  features = found["features"]
  return f"{features['name']} {workdir.digest(features)[:8]}"


def _images_of_quality(row: Row) -> int | None:
  return None if row.quality is None else row.quality["images"]


def _attacked(row: Row) -> str | None:
  membership = row.results.membership or {}
  name = claims.leading(membership)
  if name is None:
    return None
  attack = membership[name]
  return f"{attack.get('members')} and {attack.get('non_members')}"


def _machine(row: Row) -> str | None:
  return _cost(row.results)["hardware"]


def _version(row: Row) -> str | None:
  metas = row.results.metas.values()
  versions = sorted({str(m["version"]) for m in metas if "version" in m})
  return ", ".join(versions) or None

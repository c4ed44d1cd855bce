# SPDX-License-Identifier: Apache-2.0
"""The second distance on disk: embeds the sets, compares them.

Writes <root>/features/<name>/<set>: the vectors of generations, members,
held_out and calibration, and of mirror images where the section asks for them
(generations_mirrored, held_out_mirrored); resumable.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

import diffmem.data
from diffmem import features, workdir
from diffmem.arrays import Int
from diffmem.extraction import second
from diffmem.extraction.attack import Extraction
from diffmem.features import Features, weights
from diffmem.features.run import embed_set

SETS = ("generations", *diffmem.data.SETS)


def check(section: Mapping[str, Any] | None) -> dict[str, Any] | None:
  """The config section, or None where it names no features.

  section: name, batch, mirror, and options of that kind of features, of which
  None counts as not given.
  """
  if section is None or section["name"] is None:
    return None
  for key in ("batch", "mirror"):
    if key not in section:
      raise ValueError(f"features has no {key!r}: set features.{key}")
  if section["name"] not in features.FEATURES:
    features.create(section["name"])  # names what there is
  if section["batch"] < 1:
    raise ValueError(
      f"features.batch = {section['batch']}, expected at least 1"
    )
  return dict(section)


def inputs(section: Mapping[str, Any] | None) -> dict[str, str]:
  """Digests of the files that the features are read from."""
  if not section or section.get("path") is None:
    return {}
  return {"features": weights.digest(section["path"])}


def run(
  root: str | os.PathLike,
  dataset,
  split,
  bank,
  *,
  section: dict[str, Any],
  parts: Mapping[str, Int[np.ndarray, " p"]],
  found: Extraction,
  false_match_rate: float,
  seed: int,
  of: str = "",
  progress: bool = True,
) -> second.Second:
  """Embeds what is missing and compares; adds `second` to found.results.

  Args:
    root: the workdir.
    dataset, split: the training data, and who is in which set.
    bank: the generations, an array or a store.
    section: the config section, after `check`.
    parts: of the larger of members and held_out, ids as many as the other's.
    found: what the rule on pixels found.
    false_match_rate: share of unseen ids that is let through.
    seed: of the calibration's resampling.
    of: a digest of the bank.
    progress: show the rate and the time left.

  Raises:
    ValueError: no calibration images; options that do not fit.
  """
  ids = {name: getattr(split, name) for name in diffmem.data.SETS}
  for name, rows in ids.items():
    if len(rows) < 2:
      raise ValueError(
        f"features {section['name']!r} need at least 2 images in {name} to set "
        f"and check a threshold, got {len(rows)}: give held-out images, or "
        "leave out features.name"
      )
  made, options = _create(root, section, dataset, ids)
  take = _Vectors(root, made, section, options, bank, dataset, ids, of)
  vectors = {name: take(name, progress) for name in SETS}
  queries, real = [vectors["generations"]], [vectors["held_out"]]
  if section["mirror"]:
    queries.append(take("generations", progress, mirror=True))
    real.append(take("held_out", progress, mirror=True))
  sets = {
    name: second.searched(
      rows,
      queries,
      vectors[name],
      made.metric,
      centred=name == "calibration",
    )
    for name, rows in ids.items()
  }
  smaller = {}
  for name, part in parts.items():
    some = second.subset(np.asarray(vectors[name]), ids[name], part)
    smaller[name] = second.searched(part, queries, some, made.metric)
  other = second.extract(
    sets["members"],
    smaller.get("held_out", sets["held_out"]),
    sets["calibration"],
    second.search(real, vectors["members"], made.metric),
    copies=split.copies,
    pixel_matches=split.members[found.matches.rows],
    false_match_rate=false_match_rate,
    seed=seed,
    control_members=smaller.get("members"),
  )
  about = {"name": made.name, "metric": made.metric, "info": made.info}
  about["mirror"] = section["mirror"]
  found.results["second"] = about | other.results
  return other


def _create(root, section, dataset, ids) -> tuple[Features, dict[str, Any]]:
  """The features and the options they were made with."""
  options = {
    key: value
    for key, value in section.items()
    if key not in ("name", "batch", "mirror") and value is not None
  }
  if section["name"] == "classifier" and "path" not in options:
    # All sets alike, or members would be told apart better than the others.
    every = np.sort(np.concatenate(list(ids.values())))
    options["images"] = dataset.take(every)
    options["path"] = _folder(root, "classifier") / "weights.npz"
  made = features.create(section["name"], **options)
  if section["mirror"] and not made.mirror:
    raise ValueError(
      f"features {made.name!r} cannot be mirrored: set features.mirror=False"
    )
  return made, options


def _folder(root, name: str):
  return workdir.path(root) / "features" / name


class _Vectors:
  """Vectors of a set, embedded now or before, or taken from a file."""

  def __init__(self, root, made, section, options, bank, dataset, ids, of: str):
    self._folder = _folder(root, made.name)
    self._made, self._batch = made, section["batch"]
    self._path = options.get("path")
    self._bank, self._dataset, self._ids, self._of = bank, dataset, ids, of

  def __call__(self, name: str, progress: bool, *, mirror: bool = False):
    if self._made.name == "file":
      if name == "generations":
        every = np.arange(len(self._bank))
        return features.rows(self._path, every, "generations")
      return features.rows(self._path, self._ids[name], "data")
    if name == "generations":
      images, of = self._bank, self._of
    else:
      images = self._dataset.take(self._ids[name])
      of = weights.of_arrays({"ids": self._ids[name], "images": images})
    made = embed_set(
      self._folder / (f"{name}_mirrored" if mirror else name),
      images,
      self._made,
      batch=self._batch,
      mirror=mirror,
      of=of,
      progress=progress,
    )
    return made if name == "generations" else made[:]

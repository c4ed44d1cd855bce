# SPDX-License-Identifier: Apache-2.0
"""The extraction stage: searches on disk -> matches, controls, gallery.

Writes <root>/extraction: results.json, matches.csv (one row for each distinct
training id), near_misses.csv, held_out_matches.csv (the false matches) and
gallery.npz (the images of their first rows). With features, also
second_matches.csv and second_held_out_matches.csv (`second`).
"""

import csv
import io
import logging
import os

import numpy as np

import diffmem.data
from diffmem import distances, processes, store, workdir
from diffmem.arrays import Int, UInt8
from diffmem.data import Dataset, Split
from diffmem.distances import knn
from diffmem.extraction import alone, attack, rule, second, second_run
from diffmem.extraction.attack import Found
from diffmem.extraction.rule import Nearest, Searched
from diffmem.progress import Progress
from diffmem.sample.bank import open_bank

_log = logging.getLogger(__name__)

COLUMNS = (
  "training_id",
  "generation_id",
  "distance",
  "ratio",
  "copies",
  "hits",
  "label",
  "name",
  "caption",
)
SECOND = ("second_matches", "second_held_out_matches")


@processes.led
def run(
  root: str | os.PathLike,
  *,
  seed: int,
  extraction: dict,
  features: dict | None = None,
  progress: bool = True,
) -> None:
  """Makes <root>/extraction.

  Args:
    root: the workdir; its distances stage must have finished.
    seed: of the calibration's resampling, and of the subset that makes
      members and held-out images equal in number where they are not.
    extraction: the config section, as a plain dict.
    features: the config section of a second distance; None, or a name of
      None, for pixels alone.
    progress: show the rate and the time left.

  Raises:
    FileNotFoundError: an earlier stage has not finished.
    ValueError: an option that makes no rule, too few neighbours on disk.
  """
  rule.check(
    extraction["alpha"], extraction["neighbours"], extraction["centring"]
  )
  if extraction["gallery"] < 0:
    raise ValueError(
      f"extraction.gallery = {extraction['gallery']}, expected 0 or more"
    )
  features = second_run.check(features)
  made = workdir.require(root, "distances")
  config = {"seed": seed, "extraction": extraction}
  config |= {"features": features} if features else {}
  inputs = {
    "distances": workdir.digest([made["config"], made["inputs"]]),
    **second_run.inputs(features),
  }
  with workdir.stage(
    root,
    "extraction",
    config=config,
    inputs=inputs,
    replace=True,
  ) as stage:
    if stage.finished:
      _log.info("extraction: finished before, kept (%s)", stage.folder)
      return
    dataset, split = diffmem.data.read(workdir.path(root) / "data")
    if features is not None and not len(split.held_out):
      _log.warning(
        "extraction: no second distance (features.name = %s), there are no "
        "held-out images to set its threshold",
        features["name"],
      )
      features = None
    bank = open_bank(root)
    found = _attack(
      root,
      dataset,
      split,
      bank,
      seed,
      progress,
      mirror=made["config"].get("distances", {}).get("mirror", False),
      **extraction,
    )
    other = (
      None
      if features is None
      else second_run.run(
        root,
        dataset,
        split,
        bank,
        section=features,
        parts=_equal_parts(split, seed),
        found=found,
        false_match_rate=extraction["false_match_rate"],
        seed=seed,
        of=str(made["inputs"].get("bank", "")),
        progress=progress,
      )
    )
    gallery = extraction["gallery"]
    _write(stage.folder, dataset, split, bank, found, other, gallery)
    stage.record("unique", found.results["unique"])


def _attack(
  root,
  dataset,
  split,
  bank,
  seed: int,
  progress: bool,
  *,
  mirror: bool,
  neighbours: int,
  **options,
) -> attack.Extraction:
  """Reads the searches of all sets and attacks."""
  sets = searched(root, dataset, split, neighbours, mirror=mirror)
  ids = {name: found.ids for name, found in sets.items()}
  n = min(neighbours, _smallest(ids) - 1)
  folder = workdir.path(root) / "distances"
  if len(ids) == 1:
    options["near"] = options.pop("gallery")
    found = _alone(folder, sets["members"], dataset, split, n, seed, options)
    found.results["rule"]["neighbours_asked"] = neighbours
    return found
  smaller = {
    name: search(bank, part, dataset.take(part), n, progress, mirror=mirror)
    for name, part in _equal_parts(split, seed).items()
  }
  found = attack.extract(
    sets["members"],
    smaller.get("held_out", sets["held_out"]),
    sets["calibration"],
    _nearest(folder / "held_out_to_members", dataset, n),
    copies=split.copies,
    neighbours=n,
    seed=seed,
    near=options.pop("gallery"),
    control_members=smaller.get("members"),
    **options,
  )
  found.results["rule"]["neighbours_asked"] = neighbours
  return found


def searched(
  root: str | os.PathLike,
  dataset: Dataset,
  split: Split,
  neighbours: int,
  *,
  mirror: bool = False,
) -> dict[str, Searched]:
  """Each set as the generations see it, read from <root>/distances.

  neighbours: how many means are over, at most; small sets have fewer.
  """
  ids = {name: getattr(split, name) for name in diffmem.data.SETS}
  if not len(split.held_out) + len(split.calibration):
    ids = {"members": split.members}
  n = min(neighbours, _smallest(ids) - 1)
  folder = workdir.path(root) / "distances"
  return {
    name: Searched(
      i,
      _nearest(folder / f"generations_to_{name}", dataset, n),
      _centres(folder / f"{name}_to_{name}", dataset.take(i), n, mirror),
    )
    for name, i in ids.items()
  }


def _alone(
  folder, members, dataset, split, n: int, seed: int, options: dict
) -> attack.Extraction:
  """Without held-out images, by the search of the members in themselves."""
  itself = folder / "members_to_members"
  real = rule.leave_one_out(
    store.open(itself / "indices")[:],
    store.open(itself / "squared")[:],
    d=dataset.images[0].size,
    neighbours=n,
  )
  return alone.extract(
    members, real, copies=split.copies, neighbours=n, seed=seed, **options
  )


def _smallest(ids: dict[str, np.ndarray]) -> int:
  """Size of the smallest set; ValueError where an image has no neighbour."""
  smallest = min(map(len, ids.values()))
  if smallest < 2:
    sizes = ", ".join(f"{len(i)} {name}" for name, i in ids.items())
    raise ValueError(
      f"the split has {sizes}: extraction needs at least 2 of each; give more "
      "images, or raise data.split where it divides them"
    )
  return smallest


def _equal_parts(split, seed: int) -> dict[str, Int[np.ndarray, " m"]]:
  """Of the larger of members and held_out, as many ids as the other has."""
  ids = {"members": split.members, "held_out": split.held_out}
  size = min(map(len, ids.values()))
  return {
    name: np.sort(np.random.default_rng(seed).choice(i, size, replace=False))
    for name, i in ids.items()
    if len(i) > size
  }


def search(
  bank,
  ids: Int[np.ndarray, " m"],
  images: UInt8[np.ndarray, "m h w c"],
  neighbours: int,
  progress: bool = True,
  *,
  mirror: bool = False,
) -> Searched:
  """Searches a set without keeping the neighbours.

  bank: the generations, an array or a store, read block by block; mirror:
  search over mirror images too.
  """
  index = knn.Index(images, mirror=mirror)
  n, block = bank.shape[0], knn.BLOCK
  parts = []
  with Progress(
    n, what="extraction", unit="generations", enabled=progress
  ) as bar:
    for start in range(0, n, block):
      rows = np.asarray(bank[start : start + block])
      found = index.search(rows, neighbours)
      parts.append(
        rule.read_nearest(*found, d=index.dims, neighbours=neighbours)
      )
      bar.update(len(rows))
  nearest = Nearest(
    *(
      np.concatenate([getattr(part, name) for part in parts])
      for name in ("rows", "distances", "means")
    )
  )
  return Searched(ids, nearest, centres(images, neighbours, mirror))


def centres(
  images: UInt8[np.ndarray, "m h w c"], neighbours: int, mirror: bool = False
) -> np.ndarray:
  """Of each image, the mean distance to its nearest others in the set."""
  found = distances.nearest(images, images, neighbours + 1, mirror=mirror)
  return rule.centre_means(
    found.ids, found.squared, d=images[0].size, neighbours=neighbours
  )


def _nearest(folder, dataset, neighbours: int) -> Nearest:
  return rule.read_nearest(
    store.open(folder / "indices"),
    store.open(folder / "squared"),
    d=dataset.images[0].size,
    neighbours=neighbours,
  )


def _centres(folder, images, neighbours: int, mirror: bool) -> np.ndarray:
  """From the search on disk where there is one, else searched now."""
  if not (folder / "indices" / "zarr.json").exists():
    return centres(images, neighbours, mirror)
  return rule.centre_means(
    store.open(folder / "indices")[:],
    store.open(folder / "squared")[:],
    d=images[0].size,
    neighbours=neighbours,
  )


def _write(
  folder, dataset, split, bank, found, other: second.Second | None, gallery: int
) -> None:
  """All tables and the images of their first rows; results.json last.

  Of the second distance images are kept of what pixels do not match.
  """
  members, held_out = split.members, found.held_out_ids
  tables = {
    "matches": ("match", found.matches, members, split.copies),
    "near_misses": ("near", found.near_misses, members, split.copies),
    "held_out_matches": ("false", found.false_matches, held_out, 0 * held_out),
  }
  rows = {name: np.arange(len(table[1])) for name, table in tables.items()}
  if other is not None:
    ids = other.held_out_ids
    tables |= {
      "second_matches": ("second", other.matches, members, split.copies),
      "second_held_out_matches": (
        "second_false",
        other.false_matches,
        ids,
        0 * ids,
      ),
    }
    matched = np.isin(other.matches.rows, found.matches.rows)
    rows["second_matches"] = np.flatnonzero(~matched)
    rows["second_held_out_matches"] = np.arange(len(other.false_matches))
  pictures = {}
  for name, (key, table, ids, copies) in tables.items():
    text = table_csv(table, ids, copies, dataset)
    workdir.write_bytes(folder / f"{name}.csv", text.encode())
    first = rows[name][:gallery]
    pictures[f"{key}_rows"] = first
    pictures[f"{key}_training"] = dataset.take(ids[table.rows[first]])
    pictures[f"{key}_generations"] = np.asarray(bank[table.generations[first]])
  for name in SECOND:  # of an earlier run
    if name not in tables:
      (folder / f"{name}.csv").unlink(missing_ok=True)
  packed = io.BytesIO()
  np.savez_compressed(packed, **pictures)
  workdir.write_bytes(folder / "gallery.npz", packed.getvalue())
  workdir.write_json(folder / "results.json", found.results)


def table_csv(
  found: Found,
  ids: Int[np.ndarray, " m"],
  copies: Int[np.ndarray, " m"],
  dataset,
) -> str:
  """One line for each distinct id, with what the dataset knows of it."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(COLUMNS)
  rows = dataset.rows(ids[found.rows])
  for i, row in enumerate(rows):
    about = [
      "" if field is None else field[row]
      for field in (dataset.labels, dataset.names, dataset.captions)
    ]
    writer.writerow(
      [
        ids[found.rows[i]],
        found.generations[i],
        f"{found.distances[i]:.8f}",
        f"{found.ratios[i]:.8f}",
        copies[found.rows[i]],
        found.hits[i],
        *about,
      ]
    )
  return out.getvalue()

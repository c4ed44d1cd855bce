# SPDX-License-Identifier: Apache-2.0
"""Near-duplicates in training, searched before it: <root>/dedup.

The config section `data.dedup` says which pairs of members are near-duplicates:

  by="pixels"    distance (RMS of pixels) at most `threshold`
  by="ratio"     distance d(x, y) <= threshold alpha mean of d(x, n_k), n_k the
                 `neighbours` members nearest to x (Carlini et al. 2023,
                 arXiv:2301.13188, section 5.1), or the same for y
  by="features"  distance of embeddings at most `threshold`; `features` are the
                 options of `features.create`: {"name": "clip", ...}

Then one of each group stays (`data.dedup`). The folder holds the edge file,
removed.csv (one line an image that left training, or lost copies) and
gallery.npz, pictures of the first `gallery` lines. `gallery` belongs to every
section.
"""

import csv
import io
import logging
import os
from typing import Any

import numpy as np

from diffmem import distances, features, processes, workdir
from diffmem.arrays import Int
from diffmem.data import Dataset, Split, dedup, prepared, splits
from diffmem.distances import metrics
from diffmem.features import run as embedding

_log = logging.getLogger(__name__)

OPTIONS = {
  "pixels": {"threshold"},
  "ratio": {"threshold", "alpha", "neighbours"},
  "features": {"threshold", "features"},
}
COLUMNS = ("kept_id", "removed_id", "rows", "distance", "label", "name")


def check(section: dict) -> None:
  """ValueError where the section cannot be."""
  by = section.get("by")
  if by not in OPTIONS:
    raise ValueError(
      f"data.dedup.by={by!r}: expected one of {', '.join(OPTIONS)}"
    )
  expected = {"by", "gallery"} | OPTIONS[by]
  if set(section) != expected:
    raise ValueError(
      f"data.dedup has the keys {', '.join(sorted(section))}; by={by!r} "
      f"expects {', '.join(sorted(expected))}"
    )
  for key in ("threshold", "alpha", "gallery"):
    if section.get(key, 0) < 0:
      raise ValueError(f"data.dedup.{key}={section[key]}: expected 0 or more")
  if section.get("neighbours", 1) < 1:
    raise ValueError(
      f"data.dedup.neighbours={section['neighbours']}: expected 1 or more"
    )


@processes.led
def run(folder: str | os.PathLike, *, seed: int, data: dict) -> None:
  """Makes <folder>/dedup for the model whose workdir `folder` is.

  Args:
    folder: the workdir.
    seed: of the split.
    data: the config section, with `dedup`.

  Raises:
    ValueError, OSError: the section, the source or the split cannot be used.
  """
  section = data["dedup"]
  check(section)
  dataset = prepared.open_source(*(data[key] for key in prepared.SETTINGS))
  split = splits.split(dataset, seed=seed, **data["split"])
  with workdir.stage(
    folder,
    "dedup",
    config={"seed": seed, "data": data},
    inputs={"dataset": dataset.info["sha256"], "split": split.digest},
  ) as stage:
    if stage.finished:
      return
    pairs = search(stage.folder, dataset, split, section)
    dedup.save(stage.folder / dedup.FILE, pairs)
    after = dedup.apply(split, pairs)
    rows = removed(dataset, split, pairs)
    _write(stage.folder, dataset, rows, section["gallery"])
    stage.record("pairs", len(pairs.i))
    stage.record("dedup", after.info["dedup"])
    before, left = after.info["dedup"]["rows"]
    _log.info("dedup: %d of %d training rows stay", left, before)


def search(
  folder, dataset: Dataset, split: Split, section: dict
) -> dedup.Pairs:
  """The pairs of members that the section calls near-duplicates."""
  images = dataset.take(split.members)
  if section["by"] == "pixels":
    distances.write_pairs(
      folder / "pairs", images, threshold=section["threshold"], progress=False
    )
    edges = distances.read_pairs(folder / "pairs")
    i, j, d = edges.i, edges.j, edges.distances
  elif section["by"] == "ratio":
    i, j, d = _by_ratio(images, section)
  else:
    i, j, d = _by_features(folder, dataset, split, images, section)
  i, j, d = _once(i, j, d)
  members = split.members
  return dedup.Pairs(members[i], members[j], d, split.digest)


def _by_ratio(images, section: dict) -> tuple[np.ndarray, ...]:
  n = min(section["neighbours"], len(images) - 1)
  found = distances.nearest(images, images, n + 1)
  # Each image is its own neighbour, mostly the first: it does not count.
  own = found.ids == np.arange(len(images))[:, None]
  own[:, -1] |= ~own.any(axis=1)
  ids, d = (x[~own].reshape(-1, n) for x in (found.ids, found.distances))
  near = d <= section["threshold"] * section["alpha"] * d.mean(1, keepdims=True)
  i, place = np.nonzero(near)
  return i, ids[i, place], d[i, place]


def _by_features(
  folder, dataset, split, images, section: dict
) -> tuple[np.ndarray, ...]:
  made = features.create(**section["features"])
  vectors = embedding.embed_set(
    folder / "features", images, made, of=split.digest, progress=False
  )[:]
  found = distances.vectors_within(
    vectors, vectors, section["threshold"], metric=made.metric
  )
  return found.queries, found.references, found.distances


def _once(i, j, d) -> tuple[np.ndarray, ...]:
  """Each pair of two images once, i < j."""
  low, high = np.minimum(i, j), np.maximum(i, j)
  apart = low != high
  both = np.stack([low[apart], high[apart]])
  (low, high), first = np.unique(both, axis=1, return_index=True)
  return low, high, np.asarray(d, np.float64)[apart][first]


def removed(
  dataset: Dataset, split: Split, pairs: dedup.Pairs
) -> list[dict[str, Any]]:
  """What left training, most rows first: a line for each of its images.

  An image that stays but had copies has a line too, of itself. The distance
  is that of the pixels of both, whatever was searched.
  """
  stays = dedup.kept(split.members, pairs)
  lost = split.copies - (stays == split.members)
  which = np.flatnonzero(lost)
  here, there = (dataset.rows(ids[which]) for ids in (split.members, stays))
  apart = _distance(dataset, here, there)
  order = np.lexsort((split.members[which], -apart, -lost[which]))
  return [
    {
      "kept_id": int(stays[which[k]]),
      "removed_id": int(split.members[which[k]]),
      "rows": int(lost[which[k]]),
      "distance": round(float(apart[k]), 6),
      "label": "" if dataset.labels is None else int(dataset.labels[here[k]]),
      "name": "" if dataset.names is None else dataset.names[here[k]],
    }
    for k in order
  ]


def _distance(
  dataset: Dataset, a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]
) -> np.ndarray:
  x, y = (dataset.images[rows].astype(np.int64) for rows in (a, b))
  squared = ((x - y) ** 2).sum(axis=(1, 2, 3))
  return metrics.rms(squared, dataset.images[0].size)


def _write(folder, dataset: Dataset, rows: list[dict], gallery: int) -> None:
  out = io.StringIO()
  writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  workdir.write_bytes(folder / "removed.csv", out.getvalue().encode())
  packed = io.BytesIO()
  shown = rows[:gallery]
  kept, gone = (
    dataset.take([row[f"{name}_id"] for row in shown])
    for name in ("kept", "removed")
  )
  np.savez_compressed(packed, kept=kept, removed=gone)
  workdir.write_bytes(folder / "gallery.npz", packed.getvalue())

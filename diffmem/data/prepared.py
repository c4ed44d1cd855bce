# SPDX-License-Identifier: Apache-2.0
"""Data of a run: loaded and split, and held to what an earlier run used.

The folder gets split.npz and meta.json, which holds the hashes of the pixels,
of labels and captions, and of the split. Images themselves are not copied:
every stage loads them again and is refused if anything has changed since.
"""

import os
from collections.abc import Mapping
from typing import Any

from diffmem import workdir
from diffmem.data import splits
from diffmem.data.dataset import Dataset
from diffmem.data.sources import load
from diffmem.data.splits import Split

SETTINGS = ("source", "crop", "resize", "filter")
HASHES = {
  "sha256": "images",
  "annotations_sha256": "labels or captions",
}


def prepare(
  folder: str | os.PathLike,
  *,
  seed: int,
  source: str,
  crop: str,
  resize: int | None,
  filter: str,
  data_dir: str | os.PathLike | None,
  split: Mapping[str, Any],
) -> tuple[Dataset, Split]:
  """Loads and splits; writes `folder`, or holds both to what it has.

  Args:
    folder: of this stage, `<workdir>/data`.
    seed: of the split.
    source: see `diffmem.data.sources`.
    crop: see `load`.
    resize: see `load`.
    filter: see `load`.
    data_dir: where prepared TensorFlow datasets lie, or None.
    split: arguments of `diffmem.data.split`.

  Raises:
    ValueError: the source or split cannot be used, or is not what an earlier
      run used; the message says what differs.
  """
  folder = workdir.path(folder)
  dataset = load(
    source, crop=crop, resize=resize, filter=filter, folder=data_dir
  )
  drawn = splits.split(dataset, seed=seed, **split)
  meta = {
    "dataset": dataset.info,
    "split": {**drawn.info, "sha256": drawn.digest},
  }
  if (folder / "meta.json").exists():
    compare(folder, workdir.read_json(folder / "meta.json"), meta)
    saved = folder / "split.npz"
    if saved.exists() and splits.read(saved).digest == drawn.digest:
      return dataset, drawn
    if saved.exists():
      raise ValueError(
        f"{saved} is not the split that {folder / 'meta.json'} records: delete "
        f"{folder} and run again, its split follows from the seed"
      )
  folder.mkdir(parents=True, exist_ok=True)
  splits.save(drawn, folder / "split.npz")
  workdir.write_json(folder / "meta.json", meta)
  return dataset, drawn


def compare(folder: os.PathLike, old: dict, new: dict) -> None:
  """Refuses data or a split that differ from the recorded ones."""
  advice = f"use another --workdir, or delete {folder} and what came after it"
  try:
    was, now = old["dataset"], new["dataset"]
    for key, what in HASHES.items():
      if was[key] != now[key]:
        setting = first_difference(was, now, SETTINGS) or (
          f"{what} of {now['source']} changed: sha256 was {was[key][:12]}..., "
          f"is {now[key][:12]}..."
        )
        raise ValueError(f"{folder} was made from other data ({setting}); ")
    was, now = old["split"], new["split"]
    if was["sha256"] != now["sha256"]:
      setting = first_difference(was, now, [*now]) or "another version"
      raise ValueError(f"{folder} holds another split ({setting}); ")
  except KeyError as e:
    raise ValueError(
      f"{folder}/meta.json does not record {e}, so it is not a prepared "
      f"dataset: {advice}"
    ) from None
  except ValueError as e:
    raise ValueError(f"{e}{advice}") from None


def first_difference(was: dict, now: dict, keys) -> str | None:
  """Like "seed was 0, is 1": the first key whose value changed."""
  for key in keys:
    # Through JSON, as the record went: tuples are lists there.
    if workdir.digest([was.get(key)]) != workdir.digest([now.get(key)]):
      return f"{key} was {was.get(key)!r}, is {now.get(key)!r}"
  return None

# SPDX-License-Identifier: Apache-2.0
"""Data of a run: loaded and split, and held to what an earlier run used.

The folder gets split.npz and meta.json, which holds the hashes of the pixels,
of labels and captions, and of the split. Images themselves are not copied:
every stage loads them again and is refused if anything has changed since.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

import diffmem
from diffmem import workdir
from diffmem.data import captions as texts
from diffmem.data import dedup as deduplicate
from diffmem.data import given, splits
from diffmem.data.canaries import insert
from diffmem.data.dataset import Dataset
from diffmem.data.sources import load
from diffmem.data.splits import Split

SETTINGS = ("source", "crop", "resize", "filter", "data_dir")
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
  canaries: Mapping[str, Any] | None = None,
  captions: Mapping[str, Any] | None = None,
  dedup: Mapping[str, Any] | None = None,
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
    canaries: arguments of `canaries.insert`, or None for no canaries.
    captions: arguments of `captions.prepare`, which embeds them: here it is
      only seen to that every image has one. None for a model without text.
    dedup: None, or what was searched for near-duplicates in training, whose
      edge file lies in the folder `dedup` beside this one; see `data.dedup`.

  Raises:
    ValueError: the source or split cannot be used, or is not what an earlier
      run used; the message says what differs.
    OSError: the folder cannot be written.
  """
  dataset = open_source(source, crop, resize, filter, data_dir)
  if captions is not None:
    texts.distinct(dataset)
  drawn = splits.split(dataset, seed=seed, **split)
  if dedup is not None:
    if canaries is not None:
      raise ValueError(
        "data.dedup with data.canaries: copies of canaries would stay, leave "
        "one of both out"
      )
    edges = workdir.path(folder).parent / "dedup" / deduplicate.FILE
    drawn = deduplicate.apply(drawn, deduplicate.read(edges))
  if canaries is not None:
    drawn = insert(dataset, drawn, seed=seed, **canaries)
  return _keep(workdir.path(folder), dataset, drawn)


def prepare_given(
  folder: str | os.PathLike,
  *,
  seed: int,
  path: given.Source,
  held_out: given.Source,
  crop: str,
  resize: int | None,
  filter: str,
  data_dir: str | os.PathLike | None,
  calibration: float,
  channels: int | None = None,
) -> tuple[Dataset, Split]:
  """The same for images of somebody else's training; see `given`.

  Args:
    folder: of this stage, `<workdir>/data`.
    seed: of the division of the held-out images.
    path: the training images: a folder, an npz file, a source such as
      tfds:NAME, or a uint8 array [n h w c], which is kept in `folder`.
    held_out: images that the model never saw, likewise; or None.
    crop, resize, filter, data_dir: of both sources; see `load`.
    calibration: share of the held-out images that sets thresholds.
    channels: of the generations; grey images become RGB where it is 3.

  Raises:
    ValueError: a source cannot be used, the two do not fit together, or they
      are not what an earlier run used; says what differs.
    FileNotFoundError: nothing is at a path.
    OSError: the folder cannot be written.
  """
  if path is None:
    raise ValueError("data.path is missing: give the training images")
  if not 0 < calibration < 1:
    raise ValueError(
      f"data.calibration = {calibration}: expected a share between 0 and 1"
    )
  training = given.keep(folder, "path", path)
  assert training is not None
  dataset = given.load(
    path=training,
    held_out=given.keep(folder, "held_out", held_out),
    crop=crop,
    resize=resize,
    filter=filter,
    data_dir=None if data_dir is None else os.fspath(data_dir),
    channels=channels,
  )
  drawn = given.divide(dataset, seed=seed, calibration=calibration)
  return _keep(workdir.path(folder), dataset, drawn)


def _keep(
  folder: epath.Path, dataset: Dataset, drawn: Split
) -> tuple[Dataset, Split]:
  """Writes data and split, or holds them to what an earlier run wrote."""
  meta = {
    "dataset": dataset.info,
    "split": drawn.info,
    "version": diffmem.__version__,
  }
  if (folder / "meta.json").exists():
    old = workdir.read_json(folder / "meta.json")
    compare(folder, old, meta)
    if (folder / "split.npz").exists():
      return dataset, read_split(folder, old)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    splits.save(drawn, folder / "split.npz")
    workdir.write_json(folder / "meta.json", meta)
  except OSError as e:
    raise OSError(
      f"cannot write to {folder} ({e.strerror or e}); free space or choose a "
      "writable --workdir"
    ) from e
  return dataset, drawn


def read(folder: str | os.PathLike) -> tuple[Dataset, Split]:
  """What `prepare` made in this folder, loaded again and verified.

  Raises:
    FileNotFoundError: nothing was prepared there, or its source is gone.
    ValueError: the source has changed since.
  """
  folder = workdir.path(folder)
  if not (folder / "meta.json").exists():
    raise FileNotFoundError(
      f"{folder} holds no prepared data: run diffmem-train first"
    )
  old = workdir.read_json(folder / "meta.json")
  try:
    about = old["dataset"]
    if about["source"] == given.NAME:
      dataset = given.load(**{key: about[key] for key in given.SETTINGS})
    else:
      dataset = open_source(*(about[key] for key in SETTINGS))
  except KeyError as e:
    raise ValueError(not_prepared(folder, e)) from None
  compare(folder, old, {**old, "dataset": dataset.info})
  return dataset, read_split(folder, old)


def open_source(
  source: str,
  crop: str,
  resize: int | None,
  filter: str,
  data_dir: str | os.PathLike | None,
) -> Dataset:
  """The dataset, with all SETTINGS in its info."""
  dataset = load(
    source, crop=crop, resize=resize, filter=filter, folder=data_dir
  )
  where = None if data_dir is None else os.fspath(data_dir)
  info = {**dataset.info, "data_dir": where}
  return dataclasses.replace(dataset, info=info)


def read_split(folder: epath.Path, meta: dict) -> Split:
  """The saved split, if it is the one that meta.json records."""
  found = splits.read(folder / "split.npz")
  if found.digest != meta["split"]["sha256"]:
    raise ValueError(
      f"{folder / 'split.npz'} is not the split that meta.json records: delete "
      f"{folder} and run again, the split follows from the seed"
    )
  return found


def compare(folder: epath.Path, old: dict, new: dict) -> None:
  """Refuses data or a split that differ from the recorded ones."""
  advice = f"use another --workdir, or delete {folder} and what came after it"
  try:
    was, now = old["dataset"], new["dataset"]
    changed = [key for key in HASHES if was[key] != now[key]]
    if changed:
      key = changed[0]
      settings = (*SETTINGS, *given.SETTINGS)
      what = first_difference(was, now, settings) or (
        f"{HASHES[key]} of {now['source']} had sha256 {was[key][:12]}..., have "
        f"{now[key][:12]}..."
      )
      raise ValueError(f"{folder} was made from other data ({what}): {advice}")
    was, now = old["split"], new["split"]
    kept = [workdir.digest([info.get("canaries")]) for info in (was, now)]
    if was["sha256"] != now["sha256"] or kept[0] != kept[1]:
      what = first_difference(was, now, [*now])
      raise ValueError(f"{folder} holds another split ({what}): {advice}")
  except KeyError as e:
    raise ValueError(not_prepared(folder, e)) from None


def not_prepared(folder: epath.Path, missing: KeyError) -> str:
  """The error for a meta.json of something else."""
  return (
    f"{folder / 'meta.json'} does not record {missing}, so it is not of "
    f"prepared data: use another --workdir, or delete {folder}"
  )


def first_difference(was: dict, now: dict, names: Sequence[str]) -> str | None:
  """Like "seed was 0, is 1": the first key whose value changed."""
  for key in names:
    # Through JSON, as the record went: tuples are lists there.
    if workdir.digest([was.get(key)]) != workdir.digest([now.get(key)]):
      return f"{key} was {was.get(key)!r}, is {now.get(key)!r}"
  return None

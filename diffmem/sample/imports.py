# SPDX-License-Identifier: Apache-2.0
"""Images that somebody else made, imported into a bank.

  folder, .zip, .tar, .tar.gz, folder of tars, tfds:NAME[:SPLIT]   image files
  zarr folder, .npz, .npy                                          arrays

Headers are read first, so that images of several sizes are refused before any
is decoded. Then files are decoded in parallel, straight into the store.
Damaged, animated, huge and odd files are listed in left_out.csv with the
reason, the rest is kept. Crop and resize are those of data (data/images.py);
grey images among colour become RGB. A run that was stopped goes on where it
was and ends in the same bytes; a source that changed meanwhile is refused.
"""

import hashlib
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from diffmem import processes, store, workdir
from diffmem.data.images import MAX_PIXELS, Fit
from diffmem.sample import (
  archives,
  array_files,
  decoding,
  filling,
  grouping,
  records,
  survey,
  tfds_files,
)

_log = logging.getLogger(__name__)


@processes.led
def run(
  root: str | os.PathLike, *, sample: dict, progress: bool = True
) -> None:
  """Makes <root>/sample from what lies at a path.

  Args:
    root: the workdir; no stage need have run.
    sample: the config section, as a plain dict:
      path: a folder of images or of tars, .zip, .tar, .tar.gz, zarr folder,
        .npz, .npy or tfds:NAME[:SPLIT].
      prompts: a .csv or .jsonl of file and prompt; "folders", "beside" or
        "none"; or None to look for them (sample/grouping.py).
      crop, resize, filter: what is done to every image (data/images.py).
      max_pixels: files with more are left out, from their headers.
      batch: images in a chunk of the store.
    progress: show the rate and the time left.

  Raises:
    FileNotFoundError: nothing is at the path.
    ValueError: the source or an option cannot be used.
    OSError: the bank cannot be written.
  """
  fit = Fit(sample["crop"], sample["resize"], sample["filter"])
  _check(sample)
  try:
    source = _open(sample["path"])
    listed = _hash_list(sample["prompts"])
  except FileNotFoundError:
    made = records.finished(root)  # the bank needs its source no more
    if made is None or not _kept(root, {"sample": sample}, made["inputs"]):
      raise
    return
  inputs = {"source": source.digest, "prompts": listed}
  if _kept(root, {"sample": sample}, inputs):
    return
  if isinstance(source, archives.Files):
    with decoding.quiet():
      job = _files_job(source, fit, sample, progress)
  else:
    if sample["prompts"] not in (None, "none"):
      raise ValueError(
        f"sample.prompts={sample['prompts']}: an array holds its prompts "
        "itself, under the key 'prompts'"
      )
    job = _arrays_job(source, fit, sample["path"])
  _write(root, job, {"sample": sample}, inputs, progress)


def from_arrays(
  root: str | os.PathLike,
  images: Any,
  *,
  prompts: Sequence[str | None] | None = None,
  names: Sequence[str] | None = None,
  crop: str = "none",
  resize: int | None = None,
  filter: str = "lanczos",
  batch: int = 512,
  progress: bool = True,
) -> None:
  """Makes <root>/sample from images in Python.

  Args:
    root: the workdir.
    images: uint8 [n h w c] or [n h w]: an array (anything with shape, dtype
      and slices), or an iterable of such blocks, which is read once.
    prompts: a text for each image, None where there is none.
    names: a name for each image, for display.
    crop, resize, filter: see data/images.py.
    batch: images in a chunk of the store.
    progress: show the rate and the time left.

  Raises:
    ValueError: they are no images; or there is a bank of others already. Of
      an iterable it cannot be known, so any bank is refused.
  """
  source = array_files.given(images, prompts, names)
  section = dict(path=source.kind, crop=crop, resize=resize, filter=filter)
  config = {"sample": section | {"batch": batch}}
  inputs = {"source": source.digest}
  folder = workdir.path(root) / "sample"
  if source.digest is None and (folder / "meta.json").exists():
    raise ValueError(
      f"{folder} holds a bank already, and blocks cannot be compared with it; "
      f"use another workdir, or delete {folder}"
    )
  if _kept(root, config, inputs):
    return
  job = _arrays_job(source, Fit(crop, resize, filter), source.kind)
  _write(root, job, config, inputs, progress)


def _check(sample: dict) -> None:
  if not sample["path"]:
    raise ValueError(
      "sample.path is not set: give what holds the generations with "
      "--config.sample.path=PATH"
    )
  if sample["batch"] < 1:
    raise ValueError(f"sample.batch={sample['batch']} must be at least 1")
  if not 1 <= sample["max_pixels"] <= MAX_PIXELS:
    raise ValueError(
      f"sample.max_pixels={sample['max_pixels']} must be in 1..{MAX_PIXELS}"
    )


def _open(path: str) -> archives.Files | array_files.Arrays:
  """Lists or opens what is at the path."""
  kind, colon, argument = path.partition(":")
  if colon and kind == "tfds":
    return tfds_files.open_tfds(argument)
  place = pathlib.Path(path).expanduser()
  name = place.name.lower()
  if place.is_dir():
    array = array_files.is_zarr(place)
    if array is not None:
      return array_files.open_zarr(array)
    return archives.open_files(path)
  if not place.exists():
    raise FileNotFoundError(
      f"sample.path={path}: there is no such file or folder"
    )
  if name.endswith((".npz", ".npy")):
    return array_files.open_npz(place)
  if not name.endswith(archives.SUFFIXES):
    raise ValueError(
      f"sample.path={path}: expected a folder, "
      f"{', '.join(archives.SUFFIXES)}, .npz, .npy, a zarr folder or "
      "tfds:NAME[:SPLIT]"
    )
  return archives.open_files(path)


def _hash_list(prompts: str | None) -> str | None:
  """sha256 of a prompt list that was named."""
  if prompts is None or prompts in grouping.WAYS:
    return None
  return hashlib.sha256(grouping.list_file(prompts).read_bytes()).hexdigest()


def _kept(root: str | os.PathLike, config: dict, inputs: dict) -> bool:
  """Whether a finished bank is there; an error if it is another one."""
  if records.finished(root) is None:
    return False
  with workdir.stage(root, "sample", config=config, inputs=inputs) as stage:
    images = stage.folder / "images"
    if not stage.finished or not (images / "zarr.json").exists():
      return False
    kept = store.open(images).complete()
  if kept:
    _log.info("sample: finished before, kept (%s)", stage.folder)
  return kept


def _files_job(
  files: archives.Files, fit: Fit, sample: dict, progress: bool
) -> records.Job:
  """Finds images, their prompts and their size; decodes nothing."""
  path, max_pixels = sample["path"], sample["max_pixels"]
  named = survey.images(files)
  if not named:
    raise ValueError(survey.nothing(files, path))
  prompts = grouping.find(files, named, sample["prompts"])
  others = set(range(len(files.names))) - {*named} - prompts.used
  found = survey.read(
    files, named, fit, max_pixels=max_pixels, path=path, progress=progress
  )
  where = {i: row for row, i in enumerate(named)}
  texts = prompts.texts
  if texts is not None:
    texts = [texts[where[i]] for i in found.usable]
  return records.Job(
    kind=files.kind,
    path=path,
    candidates=len(found.usable),
    shape=found.shape,
    read=lambda start: decoding.decode(
      files.feed(found.usable[start:]), fit, found.shape, max_pixels
    ),
    names=[files.names[i] for i in found.usable],
    texts=texts,
    prompts_from=prompts.source,
    left_out=[
      *files.left_out,
      *((files.names[i], "is no image by its name") for i in sorted(others)),
      *prompts.left_out,
      *found.left_out,
    ],
    rule={**vars(fit), "max_pixels": max_pixels},
    counts={
      "files": len(files.names) + len(files.left_out),
      "grey_files": found.grey,
      "repeated_prompt_rows": prompts.repeated,
    },
  )


def _arrays_job(source: array_files.Arrays, fit: Fit, path: str) -> records.Job:
  n, *shape = source.shape
  height, width = survey.one_size([(shape[0], shape[1])], fit)

  def read(start: int):
    for block in source.blocks(start):
      for image in block:
        yield fit(image)

  return records.Job(
    kind=source.kind,
    path=path,
    candidates=n,
    shape=(height, width, shape[2]),
    read=read,
    names=source.names,
    texts=source.texts,
    prompts_from="none" if source.texts is None else "given with the images",
    left_out=[],
    rule=vars(fit),
    counts={},
  )


def _write(
  root: str | os.PathLike,
  job: records.Job,
  config: dict,
  inputs: dict,
  progress: bool,
) -> None:
  """The stage itself."""
  with workdir.stage(
    root, "sample", config=config, inputs=inputs, needs=job.needs(root)
  ) as stage:
    with decoding.quiet():
      filled = filling.fill(
        stage.folder,
        job.read,
        candidates=job.candidates,
        shape=job.shape,
        batch=config["sample"]["batch"],
        beside=lambda filled: records.write(stage.folder, job, filled),
        progress=progress,
      )
    for key, value in records.about(job, filled).items():
      stage.record(key, value)
  (stage.folder / "decoded").rmtree(missing_ok=True)
  _log.info("import: %s", records.summary(job, filled))

# SPDX-License-Identifier: Apache-2.0
"""Source `tfds:NAME[:SPLIT]`: a prepared TensorFlow dataset.

Read by random access from array_record files, without TensorFlow. NAME may
hold a config and a version (`celeb_a`, `coco/2017`, `mnist:3.0.1`); SPLIT is
`train` unless given.

TFDS shuffles what it writes. So rows are put in the order of the dataset's
`id` feature where it has one: `train_00017` is row 17 of the original. Ids
of another form give their rank.
"""

import os
import pathlib
import re
from typing import Any

import numpy as np
from jaxtyping import Int

from diffmem.data.dataset import Dataset, check_images
from diffmem.data.images import Fit, stack

BLOCK = 1024
NAME = re.compile(
  r"(?P<name>\w+)(?:/(?P<config>[\w.+-]+))?"
  r"(?::(?P<version>\d+\.\d+\.\d+))?(?::(?P<split>.+))?"
)


def tfds(
  argument: str, fit: Fit, data_dir: str | os.PathLike | None
) -> Dataset:
  """Opens NAME in data_dir (or $TFDS_DATA_DIR, ~/tensorflow_datasets)."""
  rows, names, info, _ = open_rows(argument, data_dir)
  return to_dataset(rows, names, info, fit, f"tfds:{argument}")


def open_rows(
  argument: str,
  data_dir: str | os.PathLike | None,
  *,
  encoded: bool = False,
) -> tuple[Any, dict[str, str | None], Any, pathlib.Path]:
  """Rows by random access, their features (see choose), info, and folder.

  Args:
    argument: NAME[:SPLIT].
    data_dir: where prepared datasets lie; None for the usual place.
    encoded: give images as the bytes of their files, not yet decoded.
  """
  match = NAME.fullmatch(argument)
  if match is None:
    raise ValueError(
      f"source 'tfds:{argument}': expected tfds:NAME[:SPLIT], say tfds:cifar10"
    )
  split = match["split"] or "train"
  folder = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  folder = pathlib.Path(folder).expanduser()
  prepared = find(folder, match["name"], match["config"], match["version"])
  import tensorflow_datasets  # here: it takes most of a second

  open_folder: Any = tensorflow_datasets.builder_from_directory
  builder = open_folder(prepared)
  known = list(builder.info.splits)
  if re.split(r"\W", split)[0] not in known:
    raise ValueError(f"{prepared} has no split {split!r}: it has {known}")
  names = choose(builder.info.features)
  skip: Any = tensorflow_datasets.decode.SkipDecoding
  decoders = {names["image"]: skip()} if encoded else None
  try:
    rows = builder.as_data_source(split=split, decoders=decoders)
  except NotImplementedError:
    raise ValueError(
      f"{prepared} is not in array_record format: {how(match['name'], folder)}"
    ) from None
  return rows, names, builder.info, prepared


def find(
  folder: pathlib.Path, name: str, config: str | None, version: str | None
) -> pathlib.Path:
  """<folder>/name[/config]/version, the newest version unless one is named."""
  base = folder / name / config if config else folder / name
  # A folder like 1.0.0.incompleteXYZ is of a preparation that was stopped.
  versions = [
    file.parent
    for file in base.glob("*/dataset_info.json")
    if re.fullmatch(version or r"\d+\.\d+\.\d+", file.parent.name)
  ]
  if versions:
    return max(versions, key=lambda path: [*map(int, path.name.split("."))])
  configs = sorted(
    {file.parent.parent.name for file in base.glob("*/*/dataset_info.json")}
  )
  if configs:
    raise ValueError(
      f"{base} holds the configs {configs}: name one, say "
      f"tfds:{name}/{configs[0]}"
    )
  wanted = "/".join(part for part in (name, config) if part)
  raise FileNotFoundError(
    f"no prepared {wanted} {version or ''} in {folder}: {how(wanted, folder)}"
  )


def how(name: str, folder: pathlib.Path) -> str:
  """The one-liner that prepares a dataset."""
  return (
    "prepare it once with pip install 'diffmem[tfds-prepare]' && python -c "
    f"\"import tensorflow_datasets as tfds; tfds.builder('{name}', "
    f"file_format='array_record', data_dir='{folder}').download_and_prepare()\""
  )


def choose(features: Any) -> dict[str, str | None]:
  """Which features are the image, id, label and caption.

  The image must be the only one, or be called "image". Label and caption are
  the only ones of their kind, or those with the usual name, or None.
  """
  import tensorflow_datasets

  kinds = tensorflow_datasets.features

  def of(kind, usual):
    found = [
      key
      for key, value in features.items()
      if isinstance(getattr(value, "feature", value), kind) and key != "id"
    ]
    named = [key for key in usual if key in found]
    return named[:1] or found, found

  (image, *more), images = of(kinds.Image, ("image",)) or (None,)
  if more:
    raise ValueError(f"several image features {images}: expected one 'image'")
  labels, _ = of(kinds.ClassLabel, ("label",))
  texts, _ = of(kinds.Text, ("caption", "captions", "text"))
  return {
    "image": image,
    "id": "id" if "id" in features else None,
    "label": labels[0] if len(labels) == 1 else None,
    "caption": texts[0] if len(texts) == 1 else None,
  }


def to_dataset(
  rows: Any, names: dict[str, str | None], info: Any, fit: Fit, source: str
) -> Dataset:
  """Reads every row, fits its image, and puts the rows in order of ids."""
  images, columns = [], {"id": [], "label": [], "caption": []}
  for start in range(0, len(rows), BLOCK):
    block = range(start, min(start + BLOCK, len(rows)))
    for index, row in zip(block, rows.__getitems__(block), strict=True):
      image = row[names["image"]]
      try:
        check_images(image[None])
        images.append(fit(image))
      except ValueError as e:
        raise ValueError(f"row {index} of {source} {e}") from None
      for key, values in columns.items():
        if names[key] is not None:
          values.append(row[names[key]])
  if not images:
    raise ValueError(f"{source} has no rows")
  ids, order = np.arange(len(images)), np.arange(len(images))
  if names["id"] is not None:
    ids, order = order_by_id(columns["id"], source)
  record: dict[str, Any] = {
    f"{key}_feature": name for key, name in names.items()
  }
  record["version"] = str(info.version)
  labels = None
  if names["label"] is not None:
    labels = np.array(columns["label"], np.int64)[order]
    record["class_names"] = list(info.features[names["label"]].names)
  captions = None
  if names["caption"] is not None:
    captions = tuple(text(columns["caption"][row]) for row in order)
  shown = [f"row {row}" for row in order]
  return Dataset(
    images=stack([images[row] for row in order], shown),
    ids=ids,
    labels=labels,
    captions=captions,
    info=record,
  )


def order_by_id(
  values: list[Any], source: str
) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
  """Ascending ids, and the row that each of them is at."""
  if all(isinstance(value, int | np.integer) for value in values):
    ids = np.array(values, np.int64)
  else:
    words = [text(value) for value in values]
    parts = [re.fullmatch(r"(\D*)(\d{1,9})", word) for word in words]
    if all(parts) and len({part[1] for part in parts if part}) == 1:
      ids = np.array([int(part[2]) for part in parts if part], np.int64)
    else:
      _, ids = np.unique(words, return_inverse=True)
  order = np.argsort(ids, kind="stable")
  ids = ids[order]
  if np.any(np.diff(ids) == 0):
    raise ValueError(f"the ids of {source} are not unique: load one split")
  return ids, order


def text(value: Any) -> str:
  """A caption, or the first of several, from the bytes TFDS gives."""
  if isinstance(value, bytes):
    return value.decode("utf-8", "replace")
  if isinstance(value, str):
    return value
  return text(value[0]) if len(value) else ""

# SPDX-License-Identifier: Apache-2.0
"""Images of somebody else's training, for an audit of a finished model.

`path` holds what the model was trained on, all of it members; `held_out`,
where there is one, images of the same kind that it never saw. Together they
become one dataset, training images first, and a split of it:

    members      the training images that differ in some pixel; of exact
                 duplicates the first, which counts as often as it stands there
    held_out,    random parts of the other source, for the control and for the
    calibration  threshold; duplicates and copies of training images left out

Both are written into a data folder as those of a training of our own, so that
later stages need not know the difference.
"""

import dataclasses
import io
import os

import numpy as np

from diffmem import workdir
from diffmem.arrays import UInt8
from diffmem.data import sources, splits
from diffmem.data.dataset import Dataset, duplicate_of, fingerprint
from diffmem.data.splits import Split
from diffmem.data.streams import permutation

Source = str | os.PathLike | np.ndarray | None
NAME = "given"  # of the source, and of the split
SETTINGS = (
  "path",
  "held_out",
  "crop",
  "resize",
  "filter",
  "data_dir",
  "channels",
)


def load(
  *,
  path: str,
  held_out: str | None,
  crop: str,
  resize: int | None,
  filter: str,
  data_dir: str | None,
  channels: int | None = None,
) -> Dataset:
  """Both sources as one dataset; the second's ids follow the first's rows.

  path, held_out: sources, as `source` writes them; channels: 3 makes grey
  images RGB; the rest: see `data.load`.
  """
  parts = [
    sources.load(part, crop=crop, resize=resize, filter=filter, folder=data_dir)
    for part in (path, held_out)
    if part is not None
  ]
  rows = [len(part) for part in parts]
  images = _joined(parts, channels or 1)
  info = {
    **parts[0].info,
    "source": NAME,
    "path": path,
    "held_out": held_out,
    "data_dir": data_dir,
    "channels": channels,
    "training_rows": rows[0],
    "rows": len(images),
    "shape": list(images.shape[1:]),
    "sha256": fingerprint(images, np.arange(len(images))),
    "annotations_sha256": workdir.digest(
      [part.info["annotations_sha256"] for part in parts]
    ),
  }
  labels = [part.labels for part in parts]
  return Dataset(
    images=images,
    ids=np.arange(len(images)),
    labels=None
    if any(x is None for x in labels)
    else np.concatenate([x for x in labels if x is not None]),
    captions=_texts([part.captions for part in parts], rows),
    names=_texts([part.names for part in parts], rows),
    info=info,
  )


def divide(dataset: Dataset, *, seed: int, calibration: float) -> Split:
  """Members, held-out and calibration images, as the module says."""
  rows = dataset.info["training_rows"]
  first = duplicate_of(dataset.images)
  distinct = first == np.arange(len(first))
  members, copies = np.unique(first[:rows], return_counts=True)
  others = np.flatnonzero(distinct[rows:]) + rows
  if len(first) > rows and len(others) < 2:
    raise ValueError(
      f"data.held_out: {len(others)} of its {len(first) - rows} images are "
      "distinct and no copies of training images, expected at least 2: give "
      "images that the model never saw, or none"
    )
  others = others[permutation(len(others), seed, NAME)]
  third = min(max(1, round(calibration * len(others))), len(others) - 1)
  third = max(third, 0)
  drawn = Split(
    members=members,
    held_out=np.sort(others[third:]),
    calibration=np.sort(others[:third]),
    copies=copies,
    pool=np.sort(np.concatenate([members, others[third:]])),
  )
  info = {
    "name": NAME,
    "seed": seed,
    **{key: len(getattr(drawn, key)) for key in splits.SETS},
    "calibration_share": calibration,
    "duplicates_in_training": rows - len(members),
    "held_out_left_out": len(first) - rows - len(others),
    "sha256": drawn.digest,
  }
  return dataclasses.replace(drawn, info=info)


def source(value: str | os.PathLike) -> str:
  """The source that a path means: folder:PATH, npz:PATH; sources stay.

  Raises:
    FileNotFoundError: nothing is there.
    ValueError: a file of another kind.
  """
  text = os.fspath(value)
  if text.partition(":")[0] in sources.SOURCES:
    return text
  there = os.path.expanduser(text)
  if os.path.isdir(there):
    return f"folder:{text}"
  if not os.path.exists(there):
    raise FileNotFoundError(
      f"{text}: no such folder or file; give a folder of images, an npz file, "
      "or a source such as tfds:NAME"
    )
  if not text.endswith(".npz"):
    raise ValueError(
      f"{text} is no folder and no .npz file: unpack it, or give a source "
      "such as tfds:NAME"
    )
  return f"npz:{text}"


def keep(folder: str | os.PathLike, name: str, value: Source) -> str | None:
  """The source of a setting; an array is kept in the data folder first."""
  folder = workdir.path(folder)
  if value is None:
    return None
  if not isinstance(value, np.ndarray):
    return source(value)
  file = folder / f"{name}.npz"
  packed = io.BytesIO()
  np.savez(packed, images=value)
  if not (file.exists() and file.read_bytes() == packed.getvalue()):
    if file.exists():
      raise ValueError(
        f"{file} holds other images than {name}: use another workdir, or "
        f"delete {folder}"
      )
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write_bytes(file, packed.getvalue())
  return f"npz:{file}"


def _joined(parts: list[Dataset], least: int) -> UInt8[np.ndarray, "b h w c"]:
  """One array; grey beside colour becomes RGB, as within a folder."""
  sizes = [part.images.shape[1:3] for part in parts]
  if len(set(sizes)) > 1:
    (h, w), (other_h, other_w) = sizes
    raise ValueError(
      f"training images are {w}x{h}, held-out images {other_w}x{other_h}: "
      "set data.crop=center and data.resize=SIDE"
    )
  channels = max([least, *(part.images.shape[3] for part in parts)])
  return np.concatenate(
    [
      np.broadcast_to(x, (*x.shape[:3], channels))
      for x in (part.images for part in parts)
    ]
  )


def _texts(
  columns: list[tuple[str, ...] | None], rows: list[int]
) -> tuple[str, ...] | None:
  """The texts of all parts, "" where a part has none; None where none has."""
  if all(column is None for column in columns):
    return None
  return tuple(
    text
    for column, count in zip(columns, rows, strict=True)
    for text in (column or ("",) * count)
  )

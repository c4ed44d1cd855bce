# SPDX-License-Identifier: Apache-2.0
"""Embeds a set on disk: resumable, in memory that does not grow with it.

`<folder>/vectors` is a store of float32 [n d], a chunk for each block of
`batch` images; `<folder>/made.json` says by what they were made. A chunk that
is there is not computed again, and a folder that other features, other weights
or other images made is refused.
"""

import os
from typing import Any

import numpy as np

from diffmem import store, workdir
from diffmem.features.protocol import Features
from diffmem.progress import Progress


def embed_set(
  folder: str | os.PathLike,
  images,
  features: Features,
  *,
  batch: int = 256,
  mirror: bool = False,
  of: str = "",
  progress: bool = True,
) -> store.Store:
  """Makes the vectors of a set, or what is still missing of them.

  Args:
    folder: where they go.
    images: uint8 [n h w c], an array or a store read block by block.
    features: what embeds them.
    batch: images at a time, and in a chunk.
    mirror: embed mirror images.
    of: a digest of the images, kept and compared.
    progress: show the rate and the time left.

  Raises:
    ValueError: bad input, or the folder was made from something else.
    FloatingPointError: a vector is not finite; names the row.
  """
  n = images.shape[0]
  if batch < 1 or n < 1:
    raise ValueError(f"{n} images in batches of {batch}, expected at least one")
  if mirror and not features.mirror:
    raise ValueError(f"features {features.name!r} cannot be mirrored")
  folder = workdir.path(folder)
  batch = min(batch, n)
  made = {
    "features": features.name,
    "metric": features.metric,
    "info": features.info,
    "shape": list(images.shape),
    "batch": batch,
    "mirror": mirror,
    "of": of,
  }
  _check(folder, made)
  first = _vectors(features, _take(images, slice(0, batch), mirror), batch, 0)
  folder.mkdir(parents=True, exist_ok=True)
  workdir.write_json(folder / "made.json", made)
  out = store.create(
    folder / "vectors", shape=(n, first.shape[1]), dtype="float32", chunk=batch
  )
  missing = sorted(set(range(out.chunks)) - set(out.written()))
  done = n - sum(out.rows(i).stop - out.rows(i).start for i in missing)
  with Progress(
    n,
    what=f"features {folder.name}",
    unit="images",
    done=done,
    enabled=progress,
  ) as bar:
    for number in missing:
      rows = out.rows(number)
      vectors = first
      if number:
        part = _take(images, rows, mirror)
        vectors = _vectors(features, part, batch, rows.start)
      out.write(number, vectors)
      bar.update(len(vectors))
  return out


def _take(images, rows: slice, mirror: bool) -> np.ndarray:
  part = np.asarray(images[rows])
  return np.ascontiguousarray(part[:, :, ::-1]) if mirror else part


def _vectors(
  features: Features, images: np.ndarray, batch: int, start: int
) -> np.ndarray:
  """The vectors of one block, filled up to `batch`: one shape is compiled."""
  count = len(images)
  if count < batch:
    last = np.repeat(images[-1:], batch - count, axis=0)
    images = np.concatenate([images, last])
  vectors = np.asarray(features.embed(images)[:count], np.float32)
  if vectors.ndim != 2 or len(vectors) != count:
    raise ValueError(
      f"features {features.name!r} made {list(vectors.shape)} of {count} "
      "images, expected one vector each"
    )
  bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
  if len(bad):
    raise FloatingPointError(
      f"features {features.name!r}: the vector of row {start + bad[0]} is not "
      "finite; check the weights"
    )
  return vectors


def _check(folder, made: dict[str, Any]) -> None:
  """ValueError where the folder was made from something else."""
  file = folder / "made.json"
  if not file.exists():
    return
  old, new = workdir.read_json(file), workdir.plain(made)
  for key, value in new.items():
    if old.get(key) != value:
      raise ValueError(
        f"{folder} was made with {key} = {old.get(key)!r}, this run has "
        f"{value!r}; delete {folder} to embed anew"
      )

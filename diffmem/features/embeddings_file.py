# SPDX-License-Identifier: Apache-2.0
"""Embeddings that somebody else computed, from a file.

An .npz with

  generations  float [n d], in the order of the bank's ids
  data         float [m d], of the source dataset's images
  data_ids     int [m], their ids; without it row i is id i

or an .npy [n d], which is read as `generations`. Nothing but numbers is read.
"""

import os
import zipfile

import numpy as np

from diffmem import workdir
from diffmem.arrays import Float, Int, UInt8
from diffmem.features import weights
from diffmem.features.protocol import Features


def create(
  path: str | os.PathLike, *, metric: str = "cosine", which: str = "generations"
) -> Features:
  """Features whose vectors stand in a file: `rows` takes them by id.

  which: the array of an .npz that is checked at once.
  """
  load(path, which)
  info = {"weights": weights.digest(path)}
  return Features("file", _refuse, metric, info, mirror=False)


def _refuse(images: UInt8[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b d"]:
  raise ValueError(
    "features 'file' hold the vectors of some images and can embed no others; "
    "take them by id, with diffmem.features.rows"
  )


def rows(
  path: str | os.PathLike,
  ids: Int[np.ndarray, " n"],
  which: str = "generations",
) -> Float[np.ndarray, "n d"]:
  """The float32 vectors of some ids.

  Raises ValueError for ids that the file lacks or has twice.
  """
  vectors, known = load(path, which)
  order = np.argsort(known, kind="stable")
  ordered = known[order]
  place = np.searchsorted(ordered, ids)
  found = ordered[np.minimum(place, len(ordered) - 1)] == ids
  if not found.all():
    raise ValueError(
      f"{path}: {which} has vectors of {len(known)} images, none for id "
      f"{ids[~found][0]} ({np.sum(~found)} of {len(ids)} are missing); embed "
      "all images of the set"
    )
  return vectors[order[place]]


def load(
  path: str | os.PathLike, which: str
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]:
  """(float32 vectors, their ids), checked."""
  arrays = _read(workdir.path(path))
  if which not in arrays:
    raise ValueError(
      f"{path} has no array {which!r} (it has {', '.join(sorted(arrays))})"
    )
  vectors = arrays[which]
  if vectors.ndim != 2 or 0 in vectors.shape or vectors.dtype.kind != "f":
    raise ValueError(
      f"{path}: {which} is {vectors.dtype}{list(vectors.shape)}, expected "
      "floating-point vectors [n d]"
    )
  vectors = vectors.astype(np.float32)
  bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
  if len(bad):
    raise ValueError(
      f"{path}: {which} holds NaN or infinite values in {len(bad)} rows, first "
      f"in row {bad[0]}; drop those images or embed them again"
    )
  ids = arrays.get(f"{which}_ids", np.arange(len(vectors)))
  if ids.shape != (len(vectors),) or ids.dtype.kind not in "iu":
    raise ValueError(
      f"{path}: {which}_ids is {ids.dtype}{list(ids.shape)}, expected one "
      f"integer for each of {len(vectors)} vectors"
    )
  if len(np.unique(ids)) < len(ids):
    raise ValueError(f"{path}: {which}_ids holds an id twice")
  return vectors, ids.astype(np.int64)


def _read(file) -> dict[str, np.ndarray]:
  if not file.is_file():
    raise FileNotFoundError(f"embeddings {file}: no such file")
  try:
    with file.open("rb") as f:
      found = np.load(f, allow_pickle=False)
      if isinstance(found, np.ndarray):
        return {"generations": found}
      return {name: found[name] for name in found.files}
  except (ValueError, EOFError, OSError, zipfile.BadZipFile) as e:
    raise ValueError(
      f"embeddings {file} are no .npz or .npy of numbers ({e}): write them "
      "with numpy.savez"
    ) from e

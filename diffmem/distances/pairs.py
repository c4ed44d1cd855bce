# SPDX-License-Identifier: Apache-2.0
"""All pairs of images within a distance, exactly, each once.

The join of a set with itself (pairs i < j) or of two sets; with `patch` in
the patch distance of `patches`. A pair is within the threshold where

  metrics.rms(squared, d) <= threshold        (float64)

which, rms being monotone, is squared <= bound for one integer bound: tiles
of exact integers are compared with it, and only the pairs that pass are ever
made into distances.
"""

import bisect
import hashlib
import os
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import workdir
from diffmem.arrays import Bool, Int
from diffmem.distances import blocks, edges, metrics, patches
from diffmem.distances.edges import Edges
from diffmem.progress import Progress


def pairs(
  a,
  b=None,
  *,
  threshold: float,
  patch: int | None = None,
  progress: bool = False,
) -> Edges:
  """All pairs with distance <= threshold, of one set or of two.

  Args:
    a, b: uint8 images [n ...] and [m ...] of one shape, arrays or stores;
      without b, a with itself: each pair once, i < j.
    threshold: a distance in [0, 1]; a pair at exactly it is taken.
    patch: the side of patches for the patch distance; None for whole images.
    progress: show the rate and the time left.

  Raises:
    ValueError: other dtypes, shapes that differ, an empty set, a store with
      missing rows, a threshold outside [0, 1], a patch that does not divide.
  """
  tiles, bound, dims = _open(a, b, threshold, patch)
  found = []
  with Progress(
    _total(tiles), what="pairs", unit="pairs", enabled=progress
  ) as bar:
    for start in tiles.starts:
      found.extend(_strip(tiles, start, bound))
      bar.update(tiles.pairs(start))
  return edges.of(found, dims)


def write_pairs(
  folder: str | os.PathLike,
  a,
  b=None,
  *,
  threshold: float,
  patch: int | None = None,
  progress: bool = True,
) -> dict[str, int]:
  """Writes what `pairs` finds to a folder; goes on where it was stopped.

  Returns how many rows, columns and pairs (edges) there are. Raises as
  `pairs` does, ValueError where the folder holds another join, and OSError
  where it cannot be written or another run writes it.
  """
  tiles, bound, dims = _open(a, b, threshold, patch)
  folder = workdir.path(folder)
  config = {
    "threshold": float(threshold),
    "patch": patch,
    "dims": dims,
    "rows": tiles.rows,
    "shape": list(tiles.shape),
  }
  inputs = {"a": _digest(a), "b": None if b is None else _digest(b)}
  with workdir.stage(
    folder.parent, folder.name, config=config, inputs=inputs
  ) as stage:
    done = [s for s in tiles.starts if edges.piece(folder, s).exists()]
    count = sum(
      len(part[0]) for s in done for part in edges.read_strip(folder, s)
    )
    with Progress(
      _total(tiles),
      what=folder.name,
      unit="pairs",
      done=sum(map(tiles.pairs, done)),
      enabled=progress,
    ) as bar:
      for start in sorted(set(tiles.starts) - set(done)):
        count += edges.write_strip(folder, start, _strip(tiles, start, bound))
        bar.update(tiles.pairs(start), found=str(count))
    stage.record("pairs", count)
  return dict(rows=tiles.shape[0], columns=tiles.shape[1], pairs=count)


def read_pairs(folder: str | os.PathLike) -> Edges:
  """The pairs that `write_pairs` left in a folder.

  Raises FileNotFoundError where there are none or not all yet, ValueError
  where a file is damaged.
  """
  folder = workdir.path(folder)
  if not (folder / "meta.json").exists():
    raise FileNotFoundError(f"{folder} holds no pairs; run write_pairs first")
  config = workdir.read_json(folder / "meta.json")["config"]
  starts = range(0, config["shape"][0], config["rows"])
  missing = [s for s in starts if not edges.piece(folder, s).exists()]
  if missing:
    raise FileNotFoundError(
      f"{folder} lacks the pairs of {len(missing)} of {len(starts)} strips, "
      f"from row {missing[0]} on; run write_pairs again, it goes on where it "
      "stopped"
    )
  found = [part for start in starts for part in edges.read_strip(folder, start)]
  return edges.of(found, config["dims"])


def largest_within(threshold: float, d: int) -> int:
  """The largest squared distance over d values with rms <= threshold."""
  return (
    bisect.bisect_right(
      range(255**2 * d + 1),
      threshold,
      key=lambda squared: metrics.rms(np.array([squared]), d)[0],
    )
    - 1
  )


def check_threshold(threshold: float) -> None:
  """ValueError unless 0 <= threshold <= 1."""
  if not 0 <= threshold <= 1:
    raise ValueError(
      f"threshold = {threshold}, expected a distance in [0, 1], root mean "
      "square of pixels scaled to [0, 1]"
    )


def _open(a, b, threshold, patch) -> tuple[blocks.Tiles, int, int]:
  """(tiles, largest squared distance that passes, values it runs over)."""
  check_threshold(threshold)
  blocks.check(a, b)
  kernel = patches.Patches(tuple(a.shape[1:]), patch)
  bound = largest_within(threshold, kernel.dims)
  return blocks.Tiles(a, b, kernel), bound, kernel.dims


def _total(tiles: blocks.Tiles) -> int:
  return sum(map(tiles.pairs, tiles.starts))


def _strip(
  tiles: blocks.Tiles, start: int, bound: int
) -> Iterator[edges.Found]:
  """(i, j, squared) of the pairs within the bound, tile by tile."""
  for column, tile in tiles.strip(start):
    away = isinstance(tile, jax.Array) and jax.default_backend() != "cpu"
    if away and not _any_within(tile, np.asarray(bound, tile.dtype)):
      continue  # most tiles: nothing of them leaves the device
    part = np.asarray(tile)[tiles.cut(start, column)]
    flat = np.flatnonzero(part <= bound)
    if len(flat) == 0:
      continue
    row, offset = np.divmod(flat, part.shape[1])
    squared = part[row, offset].astype(np.int64)
    i, j = start + row, column + offset
    if tiles.upper and column == start:
      once = i < j
      i, j, squared = i[once], j[once], squared[once]
    yield i, j, squared


@jax.jit
def _any_within(
  tile: Int[jax.Array, "n m"], bound: Int[jax.Array, ""]
) -> Bool[jax.Array, ""]:
  return jnp.any(tile <= bound)


def _digest(images) -> str:
  """sha256 of a set's images, read block by block."""
  found = hashlib.sha256(repr(tuple(images.shape)).encode())
  step = max(1, (1 << 26) // int(np.prod(images.shape[1:])))
  for start in range(0, len(images), step):
    rows = np.ascontiguousarray(images[start : start + step])
    found.update(rows.tobytes())
  return found.hexdigest()

# SPDX-License-Identifier: Apache-2.0
"""Pairs of images that were found near each other, in memory and on disk.

On disk, `<folder>/rows_<first row>.npz` holds the pairs of one strip of
rows (i, j, squared; int64), written whole when the strip is done, also when
it has none; a strip with very many has parts beside it, written before it.
meta.json says what was joined.
"""

import dataclasses
import io
import zipfile
from collections.abc import Iterable, Iterator

import numpy as np
from etils import epath

from diffmem import workdir
from diffmem.arrays import Float, Int
from diffmem.distances import metrics

PART = 1 << 22  # pairs held before a part of a strip is written
Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # i, j, squared


@dataclasses.dataclass(frozen=True)
class Edges:
  """Pairs within a threshold, sorted by (i, j).

  i, j: rows of the first and the second set (of one set, i < j); squared:
  exact integer squared distance; distances: the same as root mean square of
  pixels in [0, 1].
  """

  i: Int[np.ndarray, " e"]
  j: Int[np.ndarray, " e"]
  squared: Int[np.ndarray, " e"]
  distances: Float[np.ndarray, " e"]

  def __len__(self) -> int:
    return len(self.i)


def of(found: Iterable[Found], dims: int) -> Edges:
  """Edges of parts (i, j, squared), sorted; distances over dims values."""
  i, j, squared = _sorted(found)
  return Edges(i, j, squared, metrics.rms(squared, dims))


def _sorted(found: Iterable[Found]) -> Found:
  empty = (np.empty(0, np.int64),) * 3
  i, j, squared = (np.concatenate(x) for x in zip(empty, *found, strict=True))
  order = np.lexsort((j, i))
  return i[order], j[order], squared[order]


def piece(folder: epath.Path, start: int) -> epath.Path:
  """The file that says that the strip at row `start` is done."""
  return folder / f"rows_{start:010d}.npz"


def _part(folder: epath.Path, start: int, number: int) -> epath.Path:
  return folder / f"rows_{start:010d}.part{number:06d}.npz"


def write_strip(folder: epath.Path, start: int, found: Iterable[Found]) -> int:
  """Writes a strip's pairs, `piece` last; returns how many there are."""
  held, count, total, number = [], 0, 0, 0
  for part in found:
    held.append(part)
    count += len(part[0])
    if count >= PART:
      _save(_part(folder, start, number), held)
      total, number = total + count, number + 1
      held, count = [], 0
  _save(piece(folder, start), held, parts=number)
  return total + count


def _save(path: epath.Path, held: list[Found], parts: int = 0) -> None:
  i, j, squared = _sorted(held)
  content = io.BytesIO()
  np.savez(content, i=i, j=j, squared=squared, parts=np.int64(parts))
  workdir.write_bytes(path, content.getvalue())


def read_strip(folder: epath.Path, start: int) -> Iterator[Found]:
  """(i, j, squared) of each part; ValueError where a file is damaged."""
  last, parts = _load(piece(folder, start))
  for number in range(parts):
    yield _load(_part(folder, start, number))[0]
  yield last


def _load(path: epath.Path) -> tuple[Found, int]:
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as saved:
      found = saved["i"], saved["j"], saved["squared"]
      return found, int(saved["parts"])
  except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as e:
    reason = (str(e) or type(e).__name__).splitlines()[0]
    raise ValueError(
      f"{path} is damaged ({reason}); delete {path.name.split('.')[0]}* in "
      "that folder and run write_pairs again"
    ) from e

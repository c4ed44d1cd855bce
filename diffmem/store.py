# SPDX-License-Identifier: Apache-2.0
"""Arrays on disk: zarr v3 with a crc32c for each chunk, through tensorstore.

Rows lie in chunks of a fixed number of rows; a chunk is written whole or not
at all, and its presence is the record that its rows are done. A chunk whose
bytes changed afterwards is refused with its name.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorstore as ts

from diffmem import lease, retry, workdir
from diffmem.arrays import Int


class Store:
  """A zarr array of rows; made by `create` or `open`.

  Indexing by a slice, an int or an array of row numbers reads those rows and
  raises ValueError where a chunk is missing or damaged.
  """

  def __init__(self, path: os.PathLike, array: ts.TensorStore):
    self.path = path
    self._array = array
    self.shape: tuple[int, ...] = tuple(array.shape)
    self.dtype: np.dtype = array.dtype.numpy_dtype
    chunk: Any = array.chunk_layout.read_chunk  # always there in zarr
    self.chunk: int = chunk.shape[0]
    self._written: set[int] = set()

  def __len__(self) -> int:
    return self.shape[0]

  @property
  def chunks(self) -> int:
    """How many chunks hold all rows."""
    return -(-len(self) // self.chunk)

  def rows(self, number: int) -> slice:
    """The rows of a chunk."""
    start = number * self.chunk
    return slice(start, min(start + self.chunk, len(self)))

  def written(self) -> list[int]:
    """Numbers of the chunks that are there, ascending."""
    kv: Any = self._array.kvstore
    found = self._ask("listed", lambda: kv.list().result())
    keys = (key.decode().split("/") for key in found)
    self._written = {
      int(key[1])
      for key in keys  # c/NUMBER/0/0/0; a killed write leaves other names
      if key[0] == "c" and all(part.isdigit() for part in key[1:])
    }
    return sorted(self._written)

  def complete(self) -> bool:
    """Whether every chunk is there."""
    return len(self.written()) == self.chunks

  def write(self, number: int, values: np.ndarray) -> None:
    """Writes one whole chunk.

    Raises:
      ValueError: the values have another shape or dtype than the chunk.
      OSError: the disk is full, or the store cannot be written.
    """
    rows = self.rows(number)
    shape = (rows.stop - rows.start, *self.shape[1:])
    if values.shape != shape or values.dtype != self.dtype:
      raise ValueError(
        f"chunk {number} of {self.path} takes {self.dtype}{list(shape)}, got "
        f"{values.dtype}{list(values.shape)}"
      )
    if not workdir.is_local(self.path):
      lease.check()
    try:
      self._ask("written", lambda: self._array[rows].write(values).result())
    except Exception as e:
      raise OSError(
        f"cannot write rows {rows.start}..{rows.stop - 1} to {self.path} "
        f"({retry.reason(e)}); free space or fix the store and rerun: what is "
        "there is kept"
      ) from e
    self._written.add(number)

  def __getitem__(
    self, index: slice | int | np.integer | Int[np.ndarray, " n"]
  ) -> np.ndarray:
    rows = np.arange(len(self))[index]
    touched = np.unique(rows // self.chunk).tolist()
    if not self._written.issuperset(touched):
      missing = sorted(set(touched) - set(self.written()))
      if missing:
        first = self.rows(missing[0])
        raise ValueError(
          f"{self.path} is not complete: rows {first.start}.."
          f"{first.stop - 1} are missing ({len(missing)} chunks in all); "
          "rerun the stage that writes it"
        )
    try:
      if isinstance(index, slice) and index.step in (None, 1):
        lo, hi, _ = index.indices(len(self))
        return self._read(slice(lo, max(lo, hi)))
      return self._read(rows)
    except ValueError as e:
      damaged = self.damaged(touched)
      raise ValueError(damaged or str(e)) from e

  def damaged(self, numbers: list[int]) -> str | None:
    """Names the first of these chunks whose bytes fail their checksum."""
    for number in numbers:
      rows = self.rows(number)
      try:
        self._read(rows)
      except ValueError as e:
        name = "/".join(["c", str(number), *["0"] * (len(self.shape) - 1)])
        return (
          f"{self.path}/{name} (rows {rows.start}..{rows.stop - 1}) is "
          f"damaged ({retry.reason(e)}); delete that file and rerun its stage"
        )
    return None

  def _read(self, rows: Any) -> np.ndarray:
    return np.asarray(
      self._ask("read", lambda: self._array[rows].read().result())
    )

  def _ask(self, what: str, do: Callable[[], Any]) -> Any:
    return retry.call(do, what=f"{self.path} could not be {what}")

  def verify(self) -> None:
    """Reads every chunk that is there.

    Raises:
      ValueError: a chunk fails its checksum; it is named.
    """
    damaged = self.damaged(self.written())
    if damaged:
      raise ValueError(damaged)

  def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows chunk by chunk, in constant memory."""
    for number in range(self.chunks):
      rows = self.rows(number)
      yield rows, self[rows]


def create(
  path: str | os.PathLike, *, shape: tuple[int, ...], dtype: Any, chunk: int
) -> Store:
  """Opens a store for writing; made if it is not there yet.

  Args:
    path: a local or bucket path.
    shape: rows first.
    dtype: a NumPy dtype.
    chunk: rows in a chunk.

  Raises:
    ValueError: there is one of another shape, dtype or chunk.
  """
  if len(shape) < 1 or min(shape) < 1 or chunk < 1:
    raise ValueError(
      f"{path}: a store needs at least one row and a chunk of at least one, "
      f"got shape {tuple(shape)}, chunk {chunk}"
    )
  dtype = np.dtype(dtype)
  spec = _spec(path) | {
    "metadata": {
      "shape": list(shape),
      "data_type": dtype.name,
      "chunk_grid": {
        "name": "regular",
        "configuration": {"chunk_shape": [chunk, *shape[1:]]},
      },
      "codecs": [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "crc32c"},
      ],
      "fill_value": False if dtype.kind == "b" else 0,
    },
  }
  if dtype.itemsize == 1:
    spec["metadata"]["codecs"][0] = {"name": "bytes"}
  try:
    array = retry.call(
      lambda: ts.open(spec, open=True, create=True).result(),
      what=f"{path} could not be made",
    )
  except ValueError as e:
    raise ValueError(
      f"{path} is there already with another shape, type or chunk "
      f"({retry.reason(e)}); delete it or use another --workdir"
    ) from e
  return Store(workdir.path(path), array)


def shorten(opened: Store, rows: int) -> Store:
  """The same store with fewer rows; nothing that is written may lie beyond.

  For writers that learn how many rows there are when they have made them.
  """
  if not 0 < rows <= len(opened):
    raise ValueError(
      f"{opened.path} has {len(opened)} rows, it cannot be shortened to {rows}"
    )
  if rows < len(opened):
    end = [rows, *opened.shape[1:]]
    opened._ask(
      "shortened",
      lambda: opened._array.resize(
        exclusive_max=end, resize_metadata_only=True
      ).result(),
    )
  return open(opened.path, write=True)


def open(path: str | os.PathLike, *, write: bool = False) -> Store:
  """Opens a store that is there.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is no zarr v3 array.
  """
  if not (workdir.path(path) / "zarr.json").exists():
    raise FileNotFoundError(f"{path} is no zarr v3 array (no zarr.json in it)")
  try:
    array = retry.call(
      lambda: ts.open(_spec(path), open=True, read=True, write=write).result(),
      what=f"{path} could not be opened",
    )
  except ValueError as e:
    raise ValueError(f"{path} cannot be opened ({retry.reason(e)})") from e
  return Store(workdir.path(path), array)


def _spec(path: str | os.PathLike) -> dict:
  location = os.fspath(workdir.path(path))
  if workdir.is_local(location):
    kvstore = {"driver": "file", "path": os.path.abspath(location) + "/"}
  else:
    kvstore = location.rstrip("/") + "/"  # gs://bucket/... and the like
  return {
    "driver": "zarr3",
    "kvstore": kvstore,
    "context": retry.TENSORSTORE,
    # A chunk of zeros is written too: its presence says that it is done.
    "store_data_equal_to_fill_value": True,
    "recheck_cached_data": True,
  }

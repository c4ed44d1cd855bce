# SPDX-License-Identifier: Apache-2.0
"""What is known of a group of prompts, on disk: one file, whole or not there.

`measured_<group>.npz` holds `prompts.Measured`, `cliques_<group>.npz` what the
clique test answered. A run that was stopped goes on with the groups that lack
theirs.
"""

import io
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmem import workdir
from diffmem.arrays import Int
from diffmem.extraction.cliques import Answer, Clique
from diffmem.extraction.prompts import Measured

NUMBERS = {
  "prompt": np.int64,
  "flat": np.int64,
  "over": np.int64,
  "tightest": np.float64,
  "proven": np.bool_,
}


def write_measured(file: os.PathLike, measured: Sequence[Measured]) -> None:
  """Writes a group."""
  arrays = {
    name: np.array([getattr(m, name) for m in measured], kind)
    for name, kind in NUMBERS.items()
  }
  places = [np.searchsorted(m.rows, m.pairs) for m in measured]
  _write(
    file,
    **arrays,
    rows=_joined([m.rows for m in measured], np.int64),
    pairs=_joined(places, np.int32).reshape(-1, 2),
    lengths=_joined([m.lengths for m in measured], np.float64),
    histogram=np.stack([m.histogram for m in measured]),
    images=np.array([len(m.rows) for m in measured]),
    edges=np.array([len(m.pairs) for m in measured]),
  )


def read_measured(file: os.PathLike) -> list[Measured]:
  """A group as it was written; ValueError where the file is damaged."""
  saved = _read(file, *NUMBERS, "rows", "pairs", "lengths", "histogram")
  rows = _parts(saved["rows"], saved["images"])
  pairs = _parts(saved["pairs"], saved["edges"])
  lengths = _parts(saved["lengths"], saved["edges"])
  return [
    Measured(
      **{name: saved[name][i].item() for name in NUMBERS},
      rows=rows[i],
      pairs=rows[i][pairs[i]],
      lengths=lengths[i],
      histogram=saved["histogram"][i],
    )
    for i in range(len(rows))
  ]


def write_answers(file: os.PathLike, answers: Sequence[Answer]) -> None:
  """Writes what the clique test answered for a group, in its order."""
  found = [a.clique for a in answers]
  _write(
    file,
    bound=np.array([a.bound for a in answers]),
    exact=np.array([a.exact for a in answers]),
    work=np.array([a.work for a in answers]),
    sizes=np.array([0 if c is None else c.size for c in found]),
    means=np.array([0.0 if c is None else c.mean for c in found]),
    medoids=np.array([-1 if c is None else c.medoid for c in found]),
    ids=_joined([c.ids for c in found if c is not None], np.int64),
  )


def read_answers(file: os.PathLike) -> list[Answer]:
  """As they were written; ValueError where the file is damaged."""
  names = "bound", "exact", "work", "sizes", "means", "medoids", "ids"
  saved = _read(file, *names)
  ids = _parts(saved["ids"], saved["sizes"])
  answers = []
  for i, size in enumerate(saved["sizes"]):
    clique = None
    if size:
      mean, medoid = saved["means"][i].item(), saved["medoids"][i].item()
      clique = Clique(ids[i], mean, medoid)
    numbers = (saved[name][i].item() for name in names[:3])
    answers.append(Answer(clique, *numbers))
  return answers


def _joined(parts: Sequence[np.ndarray], kind: Any) -> np.ndarray:
  if not parts:
    return np.empty(0, kind)
  return np.concatenate([part.astype(kind) for part in parts])


def _parts(
  values: np.ndarray, sizes: Int[np.ndarray, " q"]
) -> list[np.ndarray]:
  return np.split(values, np.cumsum(sizes)[:-1]) if len(sizes) else []


def _write(file: os.PathLike, **arrays: Any) -> None:
  content = io.BytesIO()
  np.savez(content, **arrays)
  workdir.write_bytes(file, content.getvalue())


def _read(file: os.PathLike, *names: str) -> dict[str, np.ndarray]:
  try:
    content = io.BytesIO(workdir.path(file).read_bytes())
    with np.load(content, allow_pickle=False) as saved:
      found = {name: saved[name] for name in saved.files}
    return {name: found[name] for name in names} | found
  except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as e:
    reason = (str(e) or type(e).__name__).splitlines()[0]
    raise ValueError(
      f"{file} is damaged ({reason}); delete it and rerun diffmem-prompts"
    ) from e

# SPDX-License-Identifier: Apache-2.0
"""Finished runs side by side: result files of workdirs -> one page, one table.

Writes <root>/compare:

index.html    the page
table.csv     one line for each workdir
results.json  {"rows", "differences", "overlaps", "changes"}; see
              `compare_read` and `compare_pairs`
"""

import logging
import os
from collections.abc import Sequence
from typing import Any

from diffmem import processes, workdir
from diffmem.report import compare_page, compare_pairs, compare_read, tables
from diffmem.report.compare_read import Row

_log = logging.getLogger(__name__)


@processes.led
def run(
  root: str | os.PathLike, *, seed: int, compare: dict, progress: bool = True
) -> None:
  """Makes <root>/compare.

  Args:
    root: where the page goes; may be one of the workdirs.
    seed: of resampling.
    compare: the config section, as a plain dict: workdirs, names, title,
      resamples.
    progress: unused, a page is made in seconds.

  Raises:
    FileNotFoundError: a workdir holds no results.
    ValueError: fewer than two workdirs, one twice, names that do not fit.
  """
  del progress
  names = _names(compare["workdirs"], compare["names"])
  if compare["resamples"] < 1:
    raise ValueError(
      f"compare.resamples = {compare['resamples']}, expected at least 1"
    )
  rows = [
    compare_read.read(path, name)
    for path, name in zip(compare["workdirs"], names, strict=True)
  ]
  config = {"seed": seed, "compare": compare}
  metas = {
    row.name: workdir.digest(tables.finite(row.results.metas)) for row in rows
  }
  with workdir.stage(
    root, "compare", config=config, inputs=metas, replace=True
  ) as stage:
    found = summarize(rows, resamples=compare["resamples"], seed=seed)
    text = compare_page.render(found, title=compare["title"])
    folder = stage.folder
    table = compare_page.table_csv(found["rows"])
    workdir.write_bytes(folder / "table.csv", table.encode())
    workdir.write_bytes(folder / "index.html", text.encode())
    workdir.write_json(folder / "results.json", found)
  _log.info("compare: %s", folder / "index.html")


def summarize(
  rows: Sequence[Row], *, resamples: int, seed: int
) -> dict[str, Any]:
  """The contents of results.json."""
  rows = list(rows)
  budget = compare_read.budget(rows)
  copies = compare_read.alike_in_training(rows)
  pairs = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows))]
  found = {
    "budget": budget,
    "rows": [compare_read.facts(row, budget, copies) for row in rows],
    "differences": compare_read.differences(rows),
    "overlaps": [
      {
        "first_row": i,
        "second_row": j,
        **(compare_pairs.overlap(rows[i], rows[j]) or {"common": None}),
      }
      for i, j in pairs
    ],
    "changes": [
      compare_pairs.changes(
        rows[0], row, resamples=resamples, seed=seed, with_copies=copies
      )
      for row in rows[1:]
    ],
  }
  return tables.finite(workdir.plain(found))


def headline(root: str | os.PathLike) -> str:
  """The first sentences of the page, one a line, and where it is."""
  folder = workdir.path(root) / "compare"
  found = workdir.read_json(folder / "results.json")
  said = compare_page.sentences(found)
  return "\n".join([*said, f"The whole page: {folder / 'index.html'}"])


def _names(workdirs: Sequence[str], names: Sequence[str]) -> list[str]:
  """A name for each workdir: as given, else the shortest ends of paths."""
  paths = [str(workdir.path(p)).rstrip("/") for p in workdirs]
  if len(paths) < 2:
    raise ValueError(
      f"compare.workdirs names {len(paths)}, expected two or more: "
      "--config.compare.workdirs=\"('runs/a', 'runs/b')\""
    )
  twice = [p for i, p in enumerate(paths) if p in paths[:i]]
  if twice:
    raise ValueError(f"compare.workdirs names {twice[0]} twice")
  if names:
    if len(names) != len(paths) or len(set(names)) < len(names):
      raise ValueError(
        f"compare.names = {tuple(names)}: expected {len(paths)} different "
        "names, one a workdir"
      )
    return list(names)
  for depth in range(1, 64):
    ends = ["/".join(p.split("/")[-depth:]) for p in paths]
    if len(set(ends)) == len(ends):
      return ends
  return paths

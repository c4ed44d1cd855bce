# SPDX-License-Identifier: Apache-2.0
"""The table of claims: from what was observed of each run to verdicts.

Writes <root>/claims:

observed.json  {"arms": {arm: {seed: `study_observe.observe`}}}: all that rows
  are made from; a file of this kind stands in for the runs
claims.json    the rows (`study_rows.measure`), the tables, what the runs took
claims.md      the same, to be read; claims.svg, every seed of every claim
"""

import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from etils import epath

from diffmem import workdir
from diffmem.report import (
  study_figure,
  study_observe,
  study_page,
  study_rows,
  study_tables,
)

_log = logging.getLogger(__name__)

Observed = dict[str, dict[str, dict[str, Any]]]
# What the documentation's table is made from; "published" stands for it.
PUBLISHED = pathlib.Path(__file__).parent / "published" / "claims.json"


def observe(folder: epath.Path, runs: Sequence[tuple[str, int]]) -> Observed:
  """What is kept of runs in <folder>/<arm>_<seed>, by arm and seed.

  Raises FileNotFoundError for a run that has not finished.
  """
  observed: Observed = {}
  for arm, seed in runs:
    found = study_observe.observe(folder / f"{arm}_{seed}")
    observed.setdefault(arm, {})[str(seed)] = _rounded(workdir.plain(found))
  return observed


def _rounded(value: Any) -> Any:
  """Six digits of every number: more tell nothing and fill files."""
  if isinstance(value, dict):
    return {k: _rounded(v) for k, v in value.items()}
  if isinstance(value, list):
    return [_rounded(v) for v in value]
  return float(f"{value:.6g}") if isinstance(value, float) else value


def read(path: str | os.PathLike) -> Observed:
  """The contents of an observed.json, or of the one that comes along.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is none.
  """
  file = workdir.path(PUBLISHED if path == "published" else path)
  if not file.is_file():
    raise FileNotFoundError(
      f"claims.stored={path}: no such file; expected an observed.json that "
      "diffmem-claims wrote"
    )
  found = workdir.read_json(file)
  if not isinstance(found, dict) or not isinstance(found.get("arms"), dict):
    raise ValueError(
      f"claims.stored={path}: expected an observed.json that diffmem-claims "
      'wrote, an object with "arms"'
    )
  return found["arms"]


def write(root: str | os.PathLike, observed: Observed) -> None:
  """Makes <root>/claims.

  Args:
    root: the workdir.
    observed: by arm and seed.
  """
  found = summarize(observed)
  with workdir.stage(
    root,
    "claims",
    config={},
    inputs={"observed": workdir.digest(observed)},
    replace=True,
  ) as stage:
    folder = stage.folder
    workdir.write_json(folder / "observed.json", {"arms": observed})
    workdir.write_bytes(
      folder / "claims.svg", study_figure.draw(found["rows"]).encode()
    )
    workdir.write_bytes(
      folder / "claims.md", study_page.markdown(found).encode()
    )
    workdir.write_json(folder / "claims.json", found)
  _log.info("claims: %s", folder / "claims.md")


def summarize(observed: Observed) -> dict[str, Any]:
  """The contents of claims.json."""
  return workdir.plain(
    {
      "rows": study_rows.measure(observed),
      "tables": study_tables.beside(observed),
      "arms": {
        arm: _cost([observed[arm][s] for s in sorted(observed[arm], key=int)])
        for arm in sorted(observed)
      },
    }
  )


def _cost(runs: list[dict[str, Any]]) -> dict[str, Any]:
  """What an arm ran and took: of its first run, and of all."""
  first = runs[0]["command"]
  return {
    "arguments": first["arguments"],
    "runs": len(runs),
    "cpu_seconds": sum(run["command"]["cpu_seconds"] for run in runs),
    "version": first["version"],
    "hardware": first["hardware"],
  }


def headline(root: str | os.PathLike) -> str:
  """How many claims hold, one sentence a verdict, and where the table is."""
  folder = workdir.path(root) / "claims"
  found = workdir.read_json(folder / "claims.json")
  return "\n".join(
    [*study_page.sentences(found["rows"]), f"The table: {folder / 'claims.md'}"]
  )

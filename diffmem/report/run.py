# SPDX-License-Identifier: Apache-2.0
"""The report stage: result files -> index.html, results.json, two CSVs.

What scripts may rely on is in <root>/report: results.json (every stage's
results, times and config), matches.csv (one row for each training image that
was reproduced) and scores.csv (one row for each image that was scored).
config.py there runs the same experiment again; sheets.html is for people who
judge by eye.
"""

import logging
import os
from typing import Any

import diffmem
from diffmem import processes, workdir
from diffmem.report import (
  defences,
  given,
  labels,
  page,
  sheets,
  tables,
  verdict,
)
from diffmem.report.results import Results, read

MATCHES = (
  "training_id,generation_id,distance,ratio,copies,hits,label,name,caption"
)
SCORES = "id,member,copies"


@processes.led
def run(
  root: str | os.PathLike, *, report: dict, progress: bool = True
) -> None:
  """Makes <root>/report from the stages that ran.

  Args:
    root: the workdir.
    report: the config section, as a plain dict: title, gallery, and labels,
      files of marks that people made on an earlier sheets.html.
    progress: unused, a page is made in seconds.

  Raises:
    FileNotFoundError: nothing has run.
    ValueError: a damaged result file, an impossible option.
  """
  del progress
  results = read(root)
  by_hand = people(results, report)
  inputs = {
    name: workdir.digest(
      {k: v for k, v in meta.items() if k in ("config", "inputs")}
    )
    for name, meta in results.metas.items()
  } | {"labels": workdir.digest(by_hand)}
  with workdir.stage(
    root, "report", config={"report": report}, inputs=inputs, replace=True
  ) as stage:
    summary: dict[str, Any] = summarize(results, report)
    summary["labels"] = by_hand
    look = {key: report[key] for key in ("title", "gallery")}
    sheet = sheets.render(results, **look)
    text = page.render(
      results,
      **look,
      where=os.fspath(root),
      by_hand=by_hand,
      sheet=sheet is not None,
    )
    folder = stage.folder
    if sheet is None:
      (folder / "sheets.html").unlink(missing_ok=True)
    else:
      workdir.write_bytes(folder / "sheets.html", sheet.encode())
    config = summary["config"]
    if results.complete:
      workdir.write_bytes(
        folder / "config.py", page.config_file(config).encode()
      )
    matches = results.tables.get("matches") or MATCHES + "\n"
    scores = results.tables.get("scores") or SCORES + "\n"
    workdir.write_bytes(folder / "matches.csv", matches.encode())
    workdir.write_bytes(folder / "scores.csv", scores.encode())
    workdir.write_bytes(folder / "index.html", text.encode())
    workdir.write_json(folder / "results.json", summary)
  logging.info("report: %s", folder / "index.html")


def people(results: Results, report: dict) -> dict[str, Any] | None:
  """What people's marks say; None without any."""
  if not report["labels"]:
    return None
  limit = report["gallery"]
  sheet, known = sheets.digest(results, limit), sheets.items(results, limit)
  return labels.compare(
    [labels.read(path, sheet, known) for path in report["labels"]]
  )


def headline(root: str | os.PathLike) -> str:
  """The verdict in sentences, one a line, and where the page is."""
  first, rest = verdict.verdict(read(root))
  page_file = workdir.path(root) / "report" / "index.html"
  return "\n".join([first, *rest, f"The whole report: {page_file}"])


def summarize(results: Results, report: dict) -> dict[str, Any]:
  """The contents of results.json; null where a stage did not run."""
  return tables.finite(
    workdir.plain(
      {
        "extraction": results.extraction,
        "membership": results.membership
        and {**results.membership, **results.membership_aside},
        "prompts": results.prompts,
        "side": results.side,
        **{name: part.results for name, part in results.parts.items()},
        "given": given.facts(results),
        **defences.summary(results),
        "stages": {
          name: {
            key: meta[key]
            for key in ("seconds", "version", "commit", "started", "hardware")
            if key in meta
          }
          for name, meta in results.metas.items()
        },
        "data": results.data,
        "config": results.config | {"report": report},
        "version": diffmem.__version__,
      }
    )
  )

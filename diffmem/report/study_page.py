# SPDX-License-Identifier: Apache-2.0
"""The table of claims as Markdown, for docs and for people."""

from typing import Any

from diffmem.report import words

VERDICTS = (
  "holds",
  "does not hold",
  "not resolvable at this size",
  "not yet run",
)


def sentences(rows: list[dict[str, Any]]) -> list[str]:
  """How many claims have each verdict, and which."""
  said = []
  for verdict in VERDICTS:
    ids = [row["id"] for row in rows if row["verdict"] == verdict]
    if ids:
      said.append(f"{len(ids)} of {len(rows)}: {verdict} ({', '.join(ids)}).")
  return said


def markdown(found: dict[str, Any]) -> str:
  """All tables of claims.json."""
  parts = [
    "\n".join(sentences(found["rows"])),
    _table(
      ("", "claim", "mean (95%)", "as claimed", "p, Holm", "verdict"),
      [_row(row) for row in found["rows"]],
    ),
    "### What each row rests on",
    _table(
      ("", "measured", "from (range over seeds)", "control", "arms"),
      [_rests(row) for row in found["rows"] if row["values"]],
    ),
    "### Beside the paper's tables",
    _table(
      ("", "of", "paper", "here", "what differs"),
      [
        (t["table"], t["of"], t["paper"], t["ours"] or "not run", t["differs"])
        for t in found["tables"]
      ],
    ),
    "### Runs",
    _table(
      ("arm", "`diffmem-audit` with", "runs", "CPU seconds in all"),
      [_arm(name, arm) for name, arm in found["arms"].items()],
    ),
    _took(found["arms"]),
  ]
  return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
  lines = [head, ("---",) * len(head), *rows]
  return "\n".join(
    f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
    for line in lines
  )


def _row(row: dict[str, Any]) -> tuple[str, ...]:
  verdict = f"**{row['verdict']}**"
  claim = f"{row['claim']} ({row['source']})"
  if not row["values"]:
    return (row["id"], claim, "", "", "", verdict)
  if row["doubt"]:
    verdict += f": {row['doubt']}"
  return (
    row["id"],
    claim,
    _mean(row),
    f"{row['positive']} of {row['count']} {row['unit']}",
    "" if row["adjusted"] is None else _p(row["adjusted"]),
    verdict,
  )


def _rests(row: dict[str, Any]) -> tuple[str, ...]:
  """The numbers behind a row."""
  parts = (row["quantity"], row["says"], row["control"])
  return (row["id"], *parts, ", ".join(row["arms"]))


def _mean(row: dict[str, Any]) -> str:
  mean = words.signed(row["mean"], "+.3g")
  if row["low"] is None:
    return mean
  low, high = (words.signed(row[k], "+.3g") for k in ("low", "high"))
  return f"{mean} ({low} to {high})"


def _p(p: float) -> str:
  return f"{p:.3g}" if p >= 0.001 else "below 0.001"


def _arm(name: str, arm: dict[str, Any]) -> tuple[str, ...]:
  return (
    name,
    f"`{' '.join(arm['arguments'])}`",
    str(arm["runs"]),
    words.count(arm["cpu_seconds"]),
  )


def _took(arms: dict[str, Any]) -> str:
  """Cost of all runs, and where they ran."""
  total = sum(arm["cpu_seconds"] for arm in arms.values())
  runs = sum(arm["runs"] for arm in arms.values())
  hardware = sorted(
    {
      ", ".join(f"{key} {value}" for key, value in arm["hardware"].items())
      for arm in arms.values()
    }
  )
  return (
    f"{runs} runs, {total / 3600:.1f} hours of CPU time (of a run that was "
    f"stopped, since it went on); {'; '.join(hardware)}."
  )

# SPDX-License-Identifier: Apache-2.0
"""The page of a comparison, its table as CSV, and its one figure."""

import csv
import datetime
import io
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

import diffmem
from diffmem.report import page, quality, words
from diffmem.report.compare_pairs import different
from diffmem.report.svg import HELD, MEMBER, MORE, MUTED, short, svg

NOT = "not measured"
COLUMNS = (
  "name",
  "workdir",
  "model",
  "generated",
  "unique",
  "unique_low",
  "unique_high",
  "searched",
  "held_out",
  "held_out_searched",
  "budget",
  "unique_at_budget",
  "attack",
  "auc",
  "auc_low",
  "auc_high",
  "tpr@0.01",
  "tpr@0.01_low",
  "tpr@0.01_high",
  "tpr@0.001",
  "tpr@0.001_low",
  "tpr@0.001_high",
  "features",
  "images",
  *(
    f"{name}{end}"
    for name in ("frechet", "precision", "recall", "density", "coverage")
    for end in ("", "_low", "_high")
  ),
  "frechet_to",
  "held_out_loss",
  "parameters",
  "train_seconds",
  "images_seen",
  "sample_seconds",
)


def render(found: dict[str, Any], *, title: str) -> str:
  """The page as text; everything in it is escaped."""
  today = datetime.date.today()
  lead, *further = sentences(found)
  context = {
    "title": title,
    "date": f"{today.day} {today:%B %Y}",
    "version": diffmem.__version__,
    "lead": lead,
    "further": further,
    "words": words,
    "budget": found["budget"] and words.count(found["budget"]),
    "rows": [_row(i, row) for i, row in enumerate(found["rows"])],
    "attacks": _attacks(found["rows"]),
    "frechet": _frechet_name(found["rows"]),
    "with_copies": "with its copies" in _beside(found["rows"]),
    "differences": found["differences"],
    "overlaps": _overlaps(found),
    "changes": [_change(change) for change in found["changes"]],
    "figure": figure(found["rows"]),
  }
  template = page.environment().get_template("compare.html.j2")
  return template.render(context)


def sentences(found: dict[str, Any]) -> list[str]:
  """Who reproduced most, at equal numbers of generations, and a warning."""
  rows = found["rows"]
  known = [r for r in rows if r["extraction"] is not None]
  said = []
  if len(known) < 2:
    said.append(
      f"Fewer than two of {words.count(len(rows))} runs have been searched for "
      "training images: what they reproduce cannot be compared."
    )
  else:
    said.append(
      _reproduced([(r["name"], r["extraction"]) for r in known], found)
    )
  loud = [d for d in found["differences"] if d["what"].startswith("images (")]
  if loud:
    said.append(
      "These runs were not trained on the same images: their numbers do not "
      "compare."
    )
  elif found["differences"]:
    what = words.joined([d["what"] for d in found["differences"]])
    said.append(f"They differ beside the model: {what}.")
  return said


def _reproduced(counts: list[tuple[str, dict]], found: dict[str, Any]) -> str:
  """Of each run where they are few, else of the two ends."""
  counts.sort(key=lambda pair: -_shown(pair[1]))
  searched = {e["searched"] for _, e in counts}
  of = f" of {words.count(min(searched))}" if len(searched) == 1 else ""
  start = (
    f"In {words.count(found['budget'])} generations each, different training "
    "images reproduced"
  )
  if len(counts) > 4:
    most, least = counts[0], counts[-1]
    return (
      f"{start}{of}: from {_shown(least[1]):,.0f} ({least[0]}) to "
      f"{_shown(most[1]):,.0f} ({most[0]})."
    )
  listed = []
  for name, e in counts:
    own = "" if of else f" of {words.count(e['searched'])}"
    listed.append(f"{_shown(e):,.0f}{own} ({name})")
  return f"{start}{of}: {words.joined(listed)}."


def _shown(extraction: dict[str, Any]) -> float:
  """What was found at the common budget, or in all where it is not known."""
  equal = extraction["unique_at_budget"]
  return extraction["unique"] if equal is None else equal


def _row(i: int, row: dict[str, Any]) -> dict[str, Any]:
  """One workdir as texts."""
  cost = row["cost"]
  return {
    "number": i + 1,
    "name": row["name"],
    "workdir": row["workdir"],
    "model": row["model"] or "not known",
    "extraction": _extraction(row["extraction"]),
    "quality": _quality(row["quality"]),
    "cost": [
      _or_not(cost["parameters"], words.count),
      _or_not(cost["images_seen"], words.count),
      _or_not(cost["train_seconds"], words.seconds),
      _or_not(cost["images_per_second"], lambda x: f"{x:,.3g}"),
    ],
  }


def _or_not(value: Any, how: Any) -> str:
  return NOT if value is None else how(value)


def _extraction(found: dict[str, Any] | None) -> dict[str, Any] | None:
  if found is None:
    return None
  searched = found["searched"]
  equal = found["unique_at_budget"]
  control = found["held_out"]
  ends = found["interval"] or words.exact_interval(found["unique"], searched)
  return {
    "generated": words.count(found["generated"]),
    "unique": f"{words.count(found['unique'])} of {words.count(searched)}",
    "interval": words.interval(ends),
    "control": "none"
    if control is None
    else f"{words.count(control)} of {words.count(found['held_out_searched'])}",
    "control_interval": words.interval(
      found["held_out_interval"]
      or words.exact_interval(control, found["held_out_searched"])
    )
    if control is not None
    else "",
    "equal": NOT if equal is None else f"{equal:,.1f}",
    "equal_interval": ""
    if equal is None
    else words.interval(words.exact_interval(round(equal), searched)),
    "share": words.share(found["matching"] / found["generated"]),
  }


def _quality(found: dict[str, Any] | None) -> list[tuple[str, str]] | None:
  if found is None:
    return None
  pair = found["to_held_out"] or found["to_members"]
  floor = found["floor"]
  return [
    quality.cell(found["frechet"]),
    (NOT if floor is None else quality.number(floor), ""),
    *(quality.cell(pair[key]) for key in quality.COLUMNS[1:]),
    quality.cell(found["loss"]),
  ]


def _beside(rows: Sequence[dict[str, Any]]) -> str:
  """Which images the Frechet distances are to, where it is one kind."""
  kinds = {row["quality"]["reference"] for row in rows if row["quality"]}
  names = {
    "to_training": "to the training set with its copies ",
    "to_held_out": "to held-out images ",
    "to_members": "to training images ",
  }
  return names[kinds.pop()] if len(kinds) == 1 else ""


def _frechet_name(rows: Sequence[dict[str, Any]]) -> str:
  names = {row["quality"]["features"] for row in rows if row["quality"]}
  return "FID" if names == {"inception"} else "Fréchet distance"


def _attacks(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """One entry an attack, leading ones first; a cell a workdir."""
  names: dict[str, None] = {}
  known = [row["membership"] for row in rows if row["membership"]]
  for membership in known:
    names[membership["leading"]] = None
  for membership in known:
    names |= dict.fromkeys(membership["attacks"])
  found = []
  for name in filter(None, names):
    cells = []
    for row in rows:
      attack = ((row["membership"] or {}).get("attacks") or {}).get(name)
      cells.append(attack and _attack(attack))
    found.append({"name": name, "cells": cells})
  return found


def _attack(attack: dict[str, Any]) -> dict[str, Any]:
  def told(key: str, how: Any) -> tuple[str, str]:
    value = attack.get(key)
    if value is None:
      return "not resolvable", ""
    return how(value[0]), words.interval(value[1:], how)

  return {
    "auc": told("auc", words.decimal),
    "one": told("tpr@0.01", words.share),
    "tenth": told("tpr@0.001", words.share),
  }


def _overlaps(found: dict[str, Any]) -> list[dict[str, str]]:
  rows = []
  for pair in found["overlaps"]:
    if pair["common"] is None:
      continue
    names = [
      found["rows"][pair[k]]["name"] for k in ("first_row", "second_row")
    ]
    rows.append(
      {
        "one": names[0],
        "other": names[1],
        "common": words.count(pair["common"]),
        "first": words.count(pair["first"]),
        "second": words.count(pair["second"]),
        "both": words.count(pair["both"]),
        "expected": f"{pair['expected']:.1f}",
        "p": _chance(pair["log10_p"]),
      }
    )
  return rows


def _chance(log10_p: float) -> str:
  return words.probability(10**log10_p) if log10_p > -300 else "below 10⁻³⁰⁰"


def _change(change: dict[str, Any]) -> dict[str, Any]:
  matches, auc, frechet = (change[k] for k in ("matches", "auc", "frechet"))
  cells = []
  if matches is None:
    cells.append((NOT, "", None))
  else:
    told = f"{words.count(matches['base'])} to {words.count(matches['other'])}"
    more = (
      f"{words.count(matches['lost'])} lost, {words.count(matches['gained'])} "
      f"new, p {words.probability(matches['p_value'])}"
    )
    clear = matches["p_value"] < 0.05 if matches["equal_budgets"] else None
    cells.append((told, more, clear))
  for part, how in ((auc, ".3f"), (frechet, ".3g")):
    if part is None:
      cells.append((NOT, "", None))
      continue
    value, *ends = part["change"]
    interval = words.interval(ends, lambda x, how=how: words.signed(x, how))
    name = f"{part['attack']}, " if "attack" in part else ""
    said = words.signed(value, f"+{how}")
    cells.append((said, name + interval, different(part["change"])))
  return {"to": change["to"], "from": change["from"], "cells": cells}


def figure(rows: Sequence[dict[str, Any]]) -> Markup | None:
  """Extraction against quality, a point with both intervals for each run."""
  points = []
  for i, row in enumerate(rows):
    e, q = row["extraction"], row["quality"]
    if e is None or not q or not q["frechet"]:
      continue
    y = _shown(e) / e["searched"]
    ends = words.exact_interval(round(_shown(e)), e["searched"]) or (y, y)
    points.append((i, row["name"], q["frechet"], (y, *ends)))
  if not points:
    return None
  colours = (MEMBER, HELD, *MORE)

  def draw(ax: Axes) -> None:
    for i, name, x, y in points:
      colour = colours[i % len(colours)]
      ax.errorbar(
        x[0],
        y[0],
        xerr=[[x[0] - x[1]], [x[2] - x[0]]],
        yerr=[[y[0] - min(y[1], y[0])], [max(y[2], y[0]) - y[0]]],
        fmt="o",
        ms=5,
        lw=1.2,
        color=colour,
      )
      said = f"{i + 1} {short(name)}" if len(rows) <= 4 else str(i + 1)
      ax.annotate(
        said,
        (x[0], y[0]),
        xytext=(6, 5),
        textcoords="offset points",
        color=colour,
        fontweight="bold",
        annotation_clip=False,
      )
    ax.set_ylim(bottom=0)
    ax.set_xlim(left=0)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}%"))
    ax.axhline(0, color=MUTED, lw=0.8)
    ax.set(
      xlabel=f"{_frechet_name(rows)} {_beside(rows)}(less is better)",
      ylabel="training images reproduced",
    )

  return svg(
    "extraction-quality",
    "Share of training images reproduced against the Fréchet distance of "
    f"{len(points)} runs",
    draw,
    (5.6, 3.5),
  )


def table_csv(rows: Sequence[dict[str, Any]]) -> str:
  """One line for each workdir; empty where something was not measured."""
  out = io.StringIO()
  writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
  writer.writeheader()
  for row in rows:
    writer.writerow({k: v for k, v in _flat(row).items() if v is not None})
  return out.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
  flat = {key: row[key] for key in ("name", "workdir", "model")}
  e, m, q, cost = (
    row[key] or {} for key in ("extraction", "membership", "quality", "cost")
  )
  for key in COLUMNS:
    if key in e:
      flat[key] = e[key]
    if key in cost:
      flat[key] = cost[key]
  if e.get("interval"):
    low, high = (round(x * e["searched"], 3) for x in e["interval"])
    flat |= {"unique_low": low, "unique_high": high}
  if m.get("leading"):
    flat["attack"] = m["leading"]
    attack = m["attacks"][m["leading"]]
    flat |= _ends(attack, ("auc", "tpr@0.01", "tpr@0.001"))
  if q:
    flat |= {"features": q["features"], "images": q["images"]}
    pair = q["to_held_out"] or q["to_members"]
    flat |= _ends(pair | {"frechet": q["frechet"]}, quality.COLUMNS)
    flat["frechet_to"] = q["reference"].removeprefix("to_")
    flat["held_out_loss"] = q["loss"] and q["loss"][0]
  return flat


def _ends(found: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
  flat = {}
  for name in names:
    if found.get(name) is not None:
      keys = (name, f"{name}_low", f"{name}_high")
      flat |= dict(zip(keys, found[name], strict=True))
  return flat

# SPDX-License-Identifier: Apache-2.0
"""Surrogate conditions on the page: does guidance extract more, and why.

Results are those of one model, or those of pairs of twins, each scored against
the half that it was trained on and against the other's.
"""

from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from diffmem.report import images, words
from diffmem.report.svg import (
  DASHES,
  HELD,
  INK,
  MEMBER,
  MORE,
  legend,
  svg,
)

NAMES = {
  "unguided": "plain sampling",
  "plain": "a classifier that knows no noise",
  "scratch": "SIDE",
  "distilled": "SIDE, distilled",
  "lora": "SIDE, adapters",
}
COLOURS = {
  "unguided": INK,
  "plain": HELD,
  "scratch": MEMBER,
  "distilled": MORE[0],
  "lora": MORE[1],
}
BANDS = {"high": "normalised l2, high band", "mid": "mid", "low": "low"}


def sentences(found: dict) -> list[str]:
  """What guidance added, with its control."""
  if "pairs" not in found:
    return [
      "One model was attacked: whether guidance adds to what plain sampling "
      "gives is told by the table, beside the same counts for as many held-out "
      "images. Several models, in pairs of twins, give it an interval."
    ]
  rate = [way for way in found["pairs"] if _is_rate(way)][-1].split(", ")[1]
  false = words.share(float(rate))
  said = []
  for what, text, unit in (
    (
      "AMS",
      f"Guided to clusters of its own images, {{}} of a model’s generations "
      f"match images that it was trained on, by a rule that passes {false} of "
      "them falsely; of plain samples {} do",
      "points",
    ),
    (
      "UMS",
      "For every 100 generations {} distinct training images come back, of "
      "plain samples {}",
      "of 100",
    ),
  ):
    arms = found["pairs"][f"{what}, {rate}"]
    method = next(m for m in found["methods"] if m in arms)
    values = [arms[m]["chosen"]["own"]["mean"] for m in (method, "unguided")]
    how = words.share if what == "AMS" else _hundred
    said.append(
      text.format(*map(how, values))
      + f". Beyond what images of the other half add, that is "
      f"{_points(arms[method]['gain']['unguided'], unit)}."
    )
  return said


def tables(found: dict) -> list[dict[str, Any]]:
  """{"title", "rows"}, of every way to count; rates of false matches first."""
  if "pairs" in found:
    made = [
      {"title": _title(way), "rate": _is_rate(way), "rows": _pair_rows(arms)}
      for way, arms in found["pairs"].items()
    ]
  else:
    made = [
      {"title": _title(way), "rate": _is_rate(way), "rows": rows}
      for way, rows in _single(found).items()
    ]
  return sorted(made, key=lambda table: not table["rate"])


def facts(found: dict) -> list[tuple[str, str]]:
  """(name, text) of what was made."""
  told = [
    ("images of each method and scale", words.count(found["n"])),
    ("guidance scales", ", ".join(f"{s:g}" for s in (0, *found["scales"]))),
  ]
  clusters = found["clusters"]
  if isinstance(clusters, list):
    told.append(("models", words.count(len(found["models"]))))
    kept = [c["kept"] for c in clusters]
    dropped = [c["dropped"] for c in clusters]
    told.append(("clusters kept", f"{min(kept)} to {max(kept)} a model"))
    told.append(("clusters dropped", f"{min(dropped)} to {max(dropped)}"))
    clusters = clusters[0]
  else:
    told.append(("clusters kept", words.count(clusters["kept"])))
    told.append(("clusters dropped", words.count(clusters["dropped"])))
  told.append(("synthetic images clustered", words.count(clusters["images"])))
  low, middle, high = clusters["cohesion"]
  told.append(
    ("cohesion of the kept", f"{low:.2f} to {high:.2f}, median {middle:.2f}")
  )
  return told


def accuracy(found: dict) -> Markup | None:
  """How well each classifier knows the cluster, by noise level."""
  known = found["accuracy"]
  methods = [m for m in found["methods"] if m in known]
  if not methods:
    return None

  def draw(ax: Axes) -> None:
    for method, dash in zip(methods, DASHES, strict=False):
      ax.plot(
        known["t"],
        known[method],
        color=COLOURS[method],
        ls=dash,
        label=NAMES[method],
      )
    ax.set_ylim(0, 1.03)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g}%"))
    ax.set(xlabel="t", ylabel="accuracy")
    legend(ax, 1)

  return svg(
    "side-accuracy",
    "Accuracy of each classifier on synthetic images set aside, by noise level",
    draw,
    size=(4.7, 3.2),
  )


def by_scale(found: dict) -> Markup | None:
  """Own and other half against the guidance scale, of the last rate's AMS."""
  ways = [w for w in found.get("pairs", {}) if _is_rate(w) and "AMS" in w]
  if not ways or len(found["scales"]) < 2:
    return None
  arms, scales = found["pairs"][ways[-1]], found["scales"]

  def draw(ax: Axes) -> None:
    base = arms["unguided"]["by_scale"]
    ax.axhline(base["own"][0]["mean"], color=INK, lw=1, label=NAMES["unguided"])
    for method in found["methods"]:
      for side, dash in (("own", "-"), ("other", DASHES[1])):
        values = [at["mean"] for at in arms[method]["by_scale"][side]]
        label = NAMES[method] if side == "own" else None
        ax.plot(scales, values, color=COLOURS[method], ls=dash, label=label)
    ax.set_xscale("log", base=2)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g}%"))
    ax.set(xlabel="guidance scale", ylabel="generations that match")
    legend(ax, 1)

  return svg(
    "side-scales",
    f"{_title(ways[-1])}, against the guidance scale",
    draw,
    size=(4.7, 3.4),
  )


def gallery(pictures: dict[str, np.ndarray], limit: int) -> list[dict]:
  """Clusters with their images, where guidance led, and what is there."""
  if "synthetic" not in pictures:
    return []
  shown = []
  for k in range(min(limit, len(pictures["synthetic"]))):
    away = pictures["distances"][k]
    some = np.flatnonzero(np.isfinite(away))
    rows = (
      ("synthetic images", pictures["synthetic"][k]),
      ("guided to it", pictures["guided"][k][some]),
      ("nearest training images", pictures["training"][k][some]),
    )
    shown.append(
      {
        "cohesion": f"{float(pictures['cohesion'][k]):.2f}",
        "size": words.count(int(pictures["sizes"][k])),
        "distance": words.distance(float(away[some[0]])) if len(some) else "",
        "rows": [
          (name, [images.from_array(x, 48) for x in shots])
          for name, shots in rows
        ],
      }
    )
  return shown


def _is_rate(way: str) -> bool:
  return way.split(", ")[1] not in BANDS


def _title(way: str) -> str:
  """What is counted, of a key such as "AMS, 0.01"."""
  what, how = way.split(", ")
  if how in BANDS:
    return f"{what}, {BANDS[how]} and nearer"
  if what == "AMS":
    return f"Generations that match (AMS), {words.share(float(how))} false"
  return (
    "Distinct images matched per generation (UMS), "
    f"{words.share(float(how))} of unseen images falsely"
  )


def _pair_rows(arms: dict) -> list[dict[str, str]]:
  rows = []
  for arm, found in arms.items():
    chosen, gain = found["chosen"], found["gain"]
    rows.append(
      {
        "name": NAMES[arm],
        "own": words.share(chosen["own"]["mean"]),
        "own_interval": words.interval(_floor(chosen["own"]["interval"])),
        "other": words.share(chosen["other"]["mean"]),
        "other_interval": words.interval(_floor(chosen["other"]["interval"])),
        "gain": _points(gain["unguided"]) if "unguided" in gain else "",
      }
    )
  return rows


def _single(found: dict) -> dict[str, list[dict[str, str]]]:
  """{way: rows}, one row for each method and scale of one model."""
  parts = [("unguided", "", found["unguided"])] + [
    (method, f", scale {scale}", scores)
    for method in found["methods"]
    for scale, scores in found["scores"][method].items()
  ]
  first = found["unguided"]["members"]
  ways: dict[str, Any] = {}
  for rate in first["rates"]:
    for what, unit in (("AMS", "generations"), ("UMS", "ids")):
      ways[f"{what}, {rate}"] = lambda s, u=unit, r=rate: s["rates"][r][u]
  for band in first["bands"]:
    for what in ("AMS", "UMS"):
      ways[f"{what}, {band}"] = lambda s, b=band: s["bands"][b]["cumulative"]
  rows: dict[str, list[dict[str, str]]] = {}
  for way, read in ways.items():
    key = way.split(", ")[0].lower()
    rows[way] = []
    for arm, suffix, scores in parts:
      row = {"name": NAMES[arm] + suffix, "gain": ""}
      for side, of in (("own", "members"), ("other", "held_out")):
        values = read(scores[of])
        row[side] = words.share(values[key])
        row[f"{side}_interval"] = words.interval(values[f"{key}_interval"])
      rows[way].append(row)
  return rows


def _floor(ends: list[float] | None) -> list[float] | None:
  """Student's interval of a share may reach below nothing."""
  return None if ends is None else [max(0.0, ends[0]), max(0.0, ends[1])]


def _hundred(share: float) -> str:
  return f"{100 * share:.1f}"


def _points(gain: dict, unit: str = "points") -> str:
  """A difference of shares, in points, with its interval."""
  value = words.signed(100 * gain["mean"], "+.1f")
  if gain["interval"] is None:
    return f"{value} {unit}"
  low, high = (words.signed(100 * x, "+.1f") for x in gain["interval"])
  return f"{value} {unit} ({low} to {high})"

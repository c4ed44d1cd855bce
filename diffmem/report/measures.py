# SPDX-License-Identifier: Apache-2.0
"""Measures of memorization on the page: claims, tables, curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from diffmem.report import words
from diffmem.report.results import Results
from diffmem.report.svg import (
  DASHES,
  HELD,
  MEMBER,
  MORE,
  MUTED,
  counted,
  legend,
  svg,
)

LABELS = {
  "none": "no labels",
  "informative": "the data’s own labels",
  "random": "random labels",
  "unique": "a label for each image",
}
COSINES = {
  "same_noise": "the other’s, same noise",
  "shuffled": "the other’s, other noise",
  "own": "nearest of its own half",
  "other": "nearest of the other half",
}


def sentences(results: Results) -> list[str]:
  """How many claims hold; none where the stage did not run."""
  part = results.parts.get("measures")
  if part is None:
    return []
  claims = part.results["claims"]
  held = [claim for claim in claims if claim["holds"]]
  failed = [claim for claim in claims if claim["holds"] is False]
  seeds = words.several(part.results["seeds"], "seed")
  if len(held) == len(claims):
    return [
      f"All {words.several(len(claims), 'claim')} about when models copy hold "
      f"here, in each of {seeds}."
    ]
  verb = "holds" if len(held) == 1 else "hold"
  return [
    f"Of {words.several(len(claims), 'claim')} about when models copy, "
    f"{words.count(len(held))} {verb} here in each of {seeds}, "
    f"{words.count(len(failed))} in none, and "
    f"{words.count(len(claims) - len(held) - len(failed))} in some."
  ]


def context(results: Results) -> dict[str, Any]:
  """What the template needs; {"measures": None} where it did not run."""
  part = results.parts.get("measures")
  if part is None:
    return {"measures": None}
  found = part.results
  return {
    "measures": {
      "claims": found["claims"],
      "seeds": words.several(found["seeds"], "seed"),
      "generated": words.count(found["generated"]),
      "members": words.count(found["members"]),
      "blur": f"{found['blur']:g}",
      "ratio": f"{found['ratio']:.3g}",
      "labels": [_labelled(*item) for item in found["labels"].items()],
      "sizes": [_sized(size) for size in found["sizes"]],
      "curves": _curves(found["sizes"]),
      "copies": _copies(found["sizes"]),
      "cosines": _cosines(found["sizes"]),
    }
  }


def _labelled(kind: str, row: dict) -> dict[str, Any]:
  keys = ("members", "held_out", "members_bound", "held_out_bound")
  return {
    "name": LABELS[kind],
    "copies": _spread(row["copies"], words.share),
    "values": [
      None if kind == "none" or row[key] is None else _spread(_first(row[key]))
      for key in keys
    ],
  }


def _sized(size: dict) -> dict[str, Any]:
  return {
    "n": words.count(size["n"]),
    "copies": _spread(size["copies"], words.share),
    "cosines": [_spread(_first(size[key])) for key in COSINES],
  }


def _first(values: Sequence[Sequence[float]]) -> list[float]:
  """The means of all seeds, without their intervals."""
  return [value[0] for value in values]


def _spread(values: Sequence[float], how=None) -> tuple[str, str]:
  """[0.1, 0.3, 0.2] -> ("0.200", "0.100 to 0.300"): the mean, and the ends."""
  how = how or (lambda x: words.signed(x, ".3f"))
  ends = how(min(values)), how(max(values))
  return how(float(np.mean(values))), f"{ends[0]} to {ends[1]}"


def _percent(ax: Axes) -> None:
  ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g}%"))


def _sizes(ax: Axes, n: list[int]) -> None:
  ax.set_xscale("log")
  ax.set_xticks(n, [words.count(size) for size in n])
  ax.minorticks_off()


def _style(i: int, count: int) -> dict[str, Any]:
  """Lines of growing sizes: dashes and colours in turn."""
  colours = (MEMBER, HELD, *MORE, MUTED)
  return {"color": colours[i % len(colours)], "ls": DASHES[i % len(DASHES)]}


def _copies(sizes: list[dict]) -> Markup | None:
  if len(sizes) < 2:
    return None
  n = [size["n"] for size in sizes]
  values = np.array([size["copies"] for size in sizes])

  def draw(ax: Axes) -> None:
    ax.plot(n, values.mean(1), color=MEMBER)
    ax.plot(n, values, ls="", marker="o", ms=3, color=MEMBER)
    _sizes(ax, n)
    _percent(ax)
    ax.set(xlabel="training images", ylabel="copies", ylim=(-0.03, 1.03))

  return svg(
    "copies-by-size", "Share of copies by training set size", draw, (4.2, 2.9)
  )


def _curves(sizes: list[dict]) -> Markup | None:
  if not sizes or len(sizes[0]["steps"]) < 2:
    return None

  def draw(ax: Axes) -> None:
    for i, size in enumerate(sizes):
      y = np.mean(size["curve"], axis=0)
      label = words.count(size["n"])
      ax.plot(size["steps"], y, label=label, **_style(i, len(sizes)))
    counted(ax, "x")
    _percent(ax)
    ax.set(xlabel="training steps", ylabel="copies", ylim=(-0.03, 1.03))
    legend(ax, columns=6)

  return svg(
    "copies-by-time",
    "Share of copies while training, a line for each training set size",
    draw,
    (4.7, 3.1),
  )


def _cosines(sizes: list[dict]) -> Markup | None:
  if len(sizes) < 2:
    return None
  n = [size["n"] for size in sizes]

  def draw(ax: Axes) -> None:
    for i, (key, label) in enumerate(COSINES.items()):
      y = [np.mean(_first(size[key])) for size in sizes]
      ax.plot(n, y, label=label, marker="o", ms=3, **_style(i, 4))
    _sizes(ax, n)
    ax.set(xlabel="training images of each model", ylabel="cosine")
    legend(ax, columns=2)

  return svg(
    "agreement",
    "Cosine of generations with those of another model and with training "
    "images, by training set size",
    draw,
    (5.2, 3.3),
  )

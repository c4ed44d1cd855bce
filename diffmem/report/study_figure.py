# SPDX-License-Identifier: Apache-2.0
"""Every seed of every claim, on one scale: left of zero speaks against it."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = {
  "holds": "#1b6e3c",
  "does not hold": "#a32020",
  "not resolvable at this size": "#8a6d1d",
}
_STYLE: dict[Any, Any] = {
  "svg.hashsalt": "diffmem",  # the same file for the same numbers
  "svg.fonttype": "none",
  "font.family": "sans-serif",
  "font.size": 9,
}


def draw(rows: list[dict[str, Any]]) -> str:
  """An SVG; rows that were not run are left out.

  Values are divided by the largest of their row, so that rows of different
  units stand beside each other.
  """
  shown = [row for row in rows if row["values"]]
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(8, 0.6 + 0.27 * max(len(shown), 1)))
    FigureCanvasSVG(figure)
    ax = figure.add_subplot()
    for place, row in enumerate(shown):
      values = np.array(row["values"])
      scale = np.abs(values).max() or 1.0
      colour = COLOURS[row["verdict"]]
      heights = np.full(len(values), float(place))
      ax.plot(values / scale, heights, "o", color=colour, alpha=0.55, ms=5)
      ax.plot([row["mean"] / scale], [place], "|", color=colour, ms=13, mew=2)
    ax.axvline(0.0, color="#555555", lw=1)
    ax.set_yticks(
      range(len(shown)), [f"{row['claim']}  {row['id']}" for row in shown]
    )
    for label, row in zip(ax.get_yticklabels(), shown, strict=True):
      label.set_color(COLOURS[row["verdict"]])
    ax.set(
      xlim=(-1.08, 1.08),
      ylim=(len(shown) - 0.4, -0.6),
      xticks=[0],
      xticklabels=["no difference"],
      xlabel="each dot a seed, the bar their mean, to the right as claimed; "
      "each row on a scale of its own\n"
      "green: holds, brown: not resolvable at this size, red: does not hold",
    )
    ax.grid(axis="y", color="#dddddd", lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(left=False)
    packed = io.StringIO()
    figure.savefig(
      packed, format="svg", bbox_inches="tight", metadata={"Date": None}
    )
  return packed.getvalue()

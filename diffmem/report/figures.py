# SPDX-License-Identifier: Apache-2.0
"""Figures as inline SVG that follow the page: its fonts, light or dark.

matplotlib draws with stand-in colours, which become CSS variables; text stays
text. Lines differ by dash as well as by colour. Each function returns markup,
or None where there is nothing to draw.
"""

import html
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

INK, MUTED, LINE = "#010101", "#020202", "#030303"
MEMBER, HELD = "#040404", "#050505"
MORE = ("#060606", "#070707", "#080808")
_VARIABLES = {
  INK: "--ink",
  MUTED: "--muted",
  LINE: "--line",
  MEMBER: "--member",
  HELD: "--held",
  MORE[0]: "--third",
  MORE[1]: "--fourth",
  MORE[2]: "--fifth",
}
_STYLE: dict[Any, Any] = {
  "svg.fonttype": "none",
  "font.size": 9,
  "text.color": INK,
  "axes.edgecolor": LINE,
  "axes.labelcolor": MUTED,
  "axes.labelsize": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "axes.prop_cycle": cycler(color=[MEMBER, HELD, *MORE]),
  "grid.color": LINE,
  "grid.linewidth": 0.6,
  "xtick.color": LINE,
  "ytick.color": LINE,
  "xtick.labelcolor": MUTED,
  "ytick.labelcolor": MUTED,
  "xtick.labelsize": 8.5,
  "ytick.labelsize": 8.5,
  "legend.frameon": False,
  "legend.fontsize": 9,
  "lines.linewidth": 1.8,
}
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), "-.")


def yield_curve(found: dict) -> Markup | None:
  """Unique images found against images generated, with the control."""
  curve = found.get("yield") or {}
  budgets = curve.get("generated")
  if not budgets:
    return None

  def draw(ax: Axes) -> None:
    parts = (
      ("members", "training images", MEMBER, _DASHES[0]),
      ("held_out", "held-out images", HELD, _DASHES[1]),
    )
    for key, label, colour, dash in parts:
      if curve.get(key):
        ax.plot(budgets, curve[key], color=colour, ls=dash, label=label)
        ax.annotate(
          f"{curve[key][-1]:.0f}",
          (budgets[-1], curve[key][-1]),
          xytext=(5, 0),
          textcoords="offset points",
          va="center",
          color=colour,
          fontweight="bold",
          annotation_clip=False,
        )
    ax.set_xscale("log")
    top = max([1.0, *(curve.get("members") or [0.0])])
    ax.set_ylim(-0.03 * top, 1.08 * top)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    _counted(ax, "x")
    ax.set(xlabel="images generated", ylabel="different images reproduced")
    _legend(ax)

  last = (curve.get("members") or [0])[-1]
  return _svg(
    "yield",
    f"Different training images reproduced against images generated, up to "
    f"{last:.0f} among {budgets[-1]:,}",
    draw,
  )


def histogram(found: dict) -> Markup | None:
  """Distance of each generation to its nearest image of either set."""
  bins = found.get("histogram") or {}
  edges = bins.get("edges")
  if not edges or not bins.get("members"):
    return None
  rule = found.get("rule") or {}

  def draw(ax: Axes) -> None:
    members = np.maximum(bins["members"], 0.5)
    ax.stairs(members, edges, baseline=0.5, fill=True, color=MEMBER, alpha=0.18)
    ax.stairs(members, edges, color=MEMBER, lw=1.5, label="to training images")
    if bins.get("held_out"):
      held_out = np.maximum(bins["held_out"], 0.5)
      ax.stairs(
        held_out,
        edges,
        color=HELD,
        lw=1.5,
        ls=_DASHES[1],
        label="to held-out images",
      )
    ax.set_yscale("log")
    ax.set_ylim(0.7, 3 * max(2, *bins["members"], *bins.get("held_out", [])))
    ax.set_xlim(edges[0], edges[-1])
    _counted(ax, "y")
    if rule.get("delta") is not None and rule["delta"] <= edges[-1]:
      if rule.get("delta_interval"):
        ax.axvspan(*rule["delta_interval"], color=MUTED, alpha=0.15, lw=0)
      ax.axvline(rule["delta"], color=INK, lw=1)
      late = rule["delta"] > 0.6 * edges[-1]
      ax.annotate(
        f"δ = {rule['delta']:.3f}",
        (rule["delta"], 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if late else 4, 0),
        textcoords="offset points",
        ha="right" if late else "left",
        va="top",
      )
    ax.set(
      xlabel="distance of a generation to its nearest image (RMS)",
      ylabel="generated images",
    )
    _legend(ax)

  return _svg(
    "histogram",
    "How many generated images lie at each distance from their nearest "
    "training image and from their nearest held-out image",
    draw,
  )


def roc(
  curves: dict[str, tuple[np.ndarray, np.ndarray]], membership: dict
) -> Markup | None:
  """Exact ROC of each attack on logarithmic axes, with chance."""
  curves = {k: v for k, v in curves.items() if len(v[0]) > 1}
  if not curves:
    return None
  counts = [membership[k].get("non_members") for k in curves]
  smallest = 1 / max([*(n for n in counts if n), 100])
  floor = min(smallest, 0.01) / 2

  def draw(ax: Axes) -> None:
    line = np.geomspace(floor, 1, 50)
    ax.plot(line, line, color=MUTED, lw=1, ls=(0, (2, 2)), label="guessing")
    for i, (name, (fpr, tpr)) in enumerate(curves.items()):
      colour = (MEMBER, HELD, *MORE)[i % 5]
      ax.plot(
        np.maximum(fpr, floor),
        np.maximum(tpr, floor),
        drawstyle="steps-post",
        color=colour,
        ls=_DASHES[i % 4],
        label=_name(name),
        lw=1.6,
      )
      for x in (0.01, 0.001):
        point = membership[name].get(f"tpr@{x:g}")
        if point:
          y, low, high = np.maximum(point, floor)
          ax.errorbar(
            x,
            y,
            [[y - low], [high - y]],
            color=colour,
            fmt="o",
            ms=4,
            capsize=3,
          )
    if floor < smallest:
      ax.axvspan(floor, smallest, color=MUTED, alpha=0.12, lw=0)
    ax.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1.1))
    for axis in (ax.xaxis, ax.yaxis):
      axis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}%"))
      axis.set_minor_formatter(NullFormatter())
    ax.set_aspect("equal", adjustable="box")
    ax.set(
      xlabel="non-members called members (FPR)",
      ylabel="members recognised (TPR)",
    )
    _legend(ax)

  return _svg(
    "roc",
    "Share of members recognised against share of false alarms, on "
    "logarithmic axes, for: " + ", ".join(curves),
    draw,
    size=(4.2, 4.2),
  )


def sweep(name: str, attack: dict) -> Markup | None:
  """AUC with its interval at each noise level t."""
  entries = [
    e
    for e in attack.get("sweep", [])
    if isinstance(e.get("auc"), list | tuple) and e.get("t") is not None
  ]
  if len(entries) < 2:
    return None

  def draw(ax: Axes) -> None:
    t = np.array([e["t"] for e in entries], float)
    value, low, high = np.array([e["auc"] for e in entries], float).T
    ax.axhline(0.5, color=MUTED, lw=1, ls=(0, (2, 2)), label="guessing")
    ax.errorbar(
      t,
      value,
      [value - low, high - value],
      color=MEMBER,
      label=f"{_name(name)}, 95% interval",
      marker="o",
      ms=5,
      capsize=3,
      lw=1.2,
    )
    if t.min() > 0:
      ax.set_xscale("log")
    ax.set_xticks(t, [f"{x:g}" for x in t])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_tick_params(which="minor", length=0)
    ax.set(xlabel="noise level t", ylabel="AUC")
    _legend(ax)

  return _svg(
    f"sweep-{name}",
    f"AUC of the {name} attack at {len(entries)} noise levels t",
    draw,
    size=(4.7, 2.7),
  )


def training(metrics: list[dict]) -> Markup | None:
  """Training loss against step."""
  points = [
    (line["step"], line["loss"])
    for line in metrics
    if isinstance(line.get("loss"), int | float) and "step" in line
  ]
  points = [p for p in points if np.isfinite(p[1]) and p[1] > 0]
  if len(points) < 2:
    return None

  def draw(ax: Axes) -> None:
    steps, loss = zip(*points, strict=True)
    ax.plot(steps, loss, color=MEMBER, lw=1.5)
    ax.set_yscale("log")
    for set_formatter in (
      ax.yaxis.set_major_formatter,
      ax.yaxis.set_minor_formatter,
    ):
      set_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    span = max(loss) / min(loss)
    if span > 10:
      ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set(xlabel="training step", ylabel="loss")

  return _svg(
    "training",
    f"Training loss from {points[0][1]:.3g} to {points[-1][1]:.3g} over "
    f"{points[-1][0]:,} steps",
    draw,
    size=(4.7, 2.7),
  )


def _counted(ax: Axes, axis: str) -> None:
  """Powers of ten as plain counts with thousands separators."""
  which = ax.xaxis if axis == "x" else ax.yaxis
  which.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
  which.set_minor_formatter(NullFormatter())


def _name(name: str) -> str:
  """Short, and with no mathematics in it."""
  short = name if len(name) <= 24 else name[:23] + "…"
  return short.replace("$", r"\$")


def _legend(ax: Axes) -> None:
  ax.legend(
    loc="lower left",
    bbox_to_anchor=(-0.02, 1.0),
    ncols=3,
    borderaxespad=0.2,
    handlelength=2.4,
    columnspacing=1.6,
  )


def _svg(
  name: str,
  summary: str,
  draw: Callable[[Axes], None],
  size: tuple[float, float] = (4.7, 3.2),
) -> Markup:
  """Draws, and returns markup with CSS colours and ids of its own."""
  out = io.StringIO()
  with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    ax = figure.add_subplot()
    figure.patch.set_visible(False)
    ax.patch.set_visible(False)
    draw(ax)
    figure.savefig(out, format="svg", metadata={"Date": None})
  text = out.getvalue()
  text = text[text.index("<svg") :]
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
  text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
  text = re.sub(r"font: (?:\w+ )?([\d.]+px) [^;\"]*", r"font-size: \1", text)
  text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
  for colour, variable in _VARIABLES.items():
    text = text.replace(colour, f"var({variable})")
  safe = re.sub(r"[^a-z0-9-]", "-", name.lower())
  text = re.sub(r'\bid="', f'id="{safe}-', text)
  text = text.replace("url(#", f"url(#{safe}-")
  text = text.replace('xlink:href="#', f'href="#{safe}-')
  box = re.search(r'viewBox="[^"]+"', text)
  rest = text[text.index(">") + 1 :]
  label = html.escape(summary, quote=True)
  head = (
    f'<svg class="figure" style="max-width:{104 * size[0]:.0f}px" '
    f'{box[0] if box else ""} role="img" '
    f'aria-label="{label}" xmlns="http://www.w3.org/2000/svg">'
  )
  return Markup(head + rest)

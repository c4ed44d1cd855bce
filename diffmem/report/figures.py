# SPDX-License-Identifier: Apache-2.0
"""Figures of a run; each returns markup, or None where nothing is to draw."""

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from diffmem.report.svg import (
  DASHES,
  HELD,
  INK,
  MEMBER,
  MORE,
  MUTED,
  counted,
  legend,
  short,
  svg,
)


def yield_curve(found: dict) -> Markup | None:
  """Unique images found against images generated, with the control."""
  curve = found.get("yield") or {}
  budgets = curve.get("generated")
  if not budgets:
    return None

  def draw(ax: Axes) -> None:
    parts = (
      ("members", "training images", MEMBER, DASHES[0]),
      ("held_out", "held-out images", HELD, DASHES[1]),
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
    counted(ax, "x")
    ax.set(xlabel="images generated", ylabel="different images reproduced")
    legend(ax)

  last = (curve.get("members") or [0])[-1]
  return svg(
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
        ls=DASHES[1],
        label=bins.get("second", "to held-out images"),
      )
    ax.set_yscale("log")
    ax.set_ylim(0.7, 3 * max(2, *bins["members"], *bins.get("held_out", [])))
    ax.set_xlim(edges[0], edges[-1])
    counted(ax, "y")
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
    legend(ax)

  return svg(
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
        ls=DASHES[i % 4],
        label=short(name),
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
    legend(ax)

  return svg(
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
      label=f"{short(name)}, 95% interval",
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
    legend(ax)

  return svg(
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

  return svg(
    "training",
    f"Training loss from {points[0][1]:.3g} to {points[-1][1]:.3g} over "
    f"{points[-1][0]:,} steps",
    draw,
    size=(4.7, 2.7),
  )

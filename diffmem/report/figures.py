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
  MUTED,
  counted,
  legend,
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

# SPDX-License-Identifier: Apache-2.0
"""The attack by prompt on the page: sentences, tables, pictures, curves."""

from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from diffmem.report import images, words
from diffmem.report.results import Results
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

METHODS = {
  "given": "given by the user",
  "across": "set on pairs of different prompts",
  "ordinary": "set on prompts that look ordinary",
  "unsuspected": "set on prompts named as harmless",
}
SHOWN = 5  # further images of a clique beside its medoid


def sentences(found: dict) -> list[str]:
  """What was found, with its control."""
  flagged, tested = found["flagged"], found["tested"]
  minimum = found["minimum"]
  what = (
    f"of {words.several(tested, 'prompt')} with enough images "
    f"{'one' if flagged == 1 else words.count(flagged) if flagged else 'none'}"
    f" gave nearly the same picture {words.count(minimum)} times or more"
  )
  said = [f"By prompt: {what}."]
  control = found.get("control") or {}
  if control.get("groups"):
    said.append(
      "The same test of groups of images that are all of different prompts, "
      f"which nothing can have made alike on purpose, flags "
      f"{words.count(control['flagged'])} of {words.count(control['groups'])} "
      f"({words.interval(control['interval'])})."
    )
  training = found.get("with_training")
  if training is None:
    if flagged:
      said.append(
        "Without training images it is not known whether these pictures are "
        "memorized or whether the model has merely collapsed on them."
      )
    return said
  if flagged:
    held_out = training.get("held_out")
    beside = ""
    if held_out:
      beside = (
        f"; among as many held-out images, {words.count(held_out['correct'])}"
        f" (and {words.count(held_out['members_correct'])} among as many "
        "training images)"
      )
    said.append(
      f"{words.count(training['correct'])} of these {words.count(flagged)} "
      f"pictures lie within {training['delta']:g} of a training image{beside}."
    )
  return said


def numbers(found: dict) -> list[tuple[str, str]]:
  """(name, text) of the test and its threshold."""
  edge, low = found["edge"], found["per_prompt"]
  told = [
    ("prompts", words.count(found["prompts"])),
    (
      "images a prompt",
      f"{words.count(low[0])} to {words.count(low[2])}, median "
      f"{words.count(low[1])}",
    ),
    ("with too few images", words.count(found["too_few"])),
    ("flagged", words.count(found["flagged"])),
    ("undecided (the search's budget ended)", words.count(found["undecided"])),
    ("images left out as flat", words.count(found["flat"])),
    (
      "distance",
      "whole images"
      if found["patch"] is None
      else f"the worst of the patches of {found['patch']} x {found['patch']}",
    ),
    (
      "edge",
      f"{edge['value']:.4f} "
      f"({words.interval(edge['interval'], words.distance)}), "
      f"{METHODS[edge['method']]}",
    ),
  ]
  training = found.get("with_training")
  if training and training.get("precision"):
    value, *ends = training["precision"]
    told.append(
      (
        "precision of the flagged prompts",
        f"{words.share(value)} ({words.interval(ends)})",
      )
    )
  return told


def eidetic(found: dict) -> list[tuple[str, str]]:
  """(k, images): how many extracted images stand k times in training."""
  training = found.get("with_training") or {}
  counts = training.get("eidetic") or {}
  return [
    (words.count(int(k)), words.count(n))
    for k, n in sorted(counts.items(), key=lambda item: int(item[0]))
  ]


def gallery(results: Results, limit: int) -> dict[str, Any]:
  """The first ranks with their pictures."""
  pictures, rows = results.prompt_pictures, results.ranking
  medoids = pictures.get("medoids")
  shown = []
  for i in range(min(limit, len(rows), 0 if medoids is None else len(medoids))):
    row = rows[i]
    others = [
      images.from_array(x)
      for x, known in zip(
        pictures["members"][i], pictures["member_ids"][i], strict=True
      )
      if known >= 0 and str(known) != row["generation_id"]
    ]
    training = pictures.get("training")
    shown.append(
      {
        **row,
        "medoid": images.from_array(pictures["medoids"][i]),
        "others": others[:SHOWN],
        "training": None
        if training is None or i >= len(training)
        else images.from_array(training[i]),
        "mean_distance": words.distance(float(row["mean_distance"])),
        "training_distance": words.distance(float(row["training_distance"]))
        if row.get("training_distance")
        else "",
        "correct": {"True": True, "1": True, "true": True}.get(
          row.get("correct") or "", False
        ),
      }
    )
  return {"shown": shown, "total": len(rows)}


def curve(found: dict) -> Markup | None:
  """Precision and recall down the ranking."""
  points = (found.get("with_training") or {}).get("curve") or {}
  ranks = points.get("rank") or []
  if len(ranks) < 2:
    return None

  def draw(ax: Axes) -> None:
    for key, colour, dash in (
      ("precision", MEMBER, DASHES[0]),
      ("recall", HELD, DASHES[1]),
    ):
      ax.plot(ranks, points[key], color=colour, ls=dash, label=key)
    ax.set_ylim(-0.03, 1.05)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g}%"))
    if ranks[-1] > 100:
      ax.set_xscale("log")
    counted(ax, "x")
    ax.set(xlabel="prompts, best first", ylabel="share")
    legend(ax)

  return svg(
    "ranking",
    f"Precision and recall over the {ranks[-1]:,} flagged prompts, best first",
    draw,
    size=(4.7, 2.9),
  )


def histogram(found: dict) -> Markup | None:
  """Distances within prompts against distances across prompts."""
  bins = found.get("histogram") or {}
  if not bins.get("edges") or not any(bins.get("within") or ()):
    return None
  edges = np.array(bins["edges"])
  edge = found["edge"]

  def draw(ax: Axes) -> None:
    last = 1
    for key, label, colour, dash in (
      ("within", "of one prompt", MEMBER, DASHES[0]),
      ("across", "of two prompts", HELD, DASHES[1]),
    ):
      counts = np.array(bins.get(key) or [0])
      if not counts.sum():
        continue
      last = max(last, int(np.flatnonzero(counts).max()) + 2)
      share = counts / counts.sum()
      ax.stairs(share, edges, color=colour, ls=dash, lw=1.5, label=label)
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(low, 8 * high)  # room for the label above the curves
    ax.set_xlim(0, edges[min(last, len(edges) - 1)])
    ax.axvspan(*edge["interval"], color=MUTED, alpha=0.15, lw=0)
    ax.axvline(edge["value"], color=INK, lw=1)
    ax.annotate(
      f"edge {edge['value']:.3f}",
      (edge["value"], 0.97),
      xycoords=("data", "axes fraction"),
      xytext=(4, 0),
      textcoords="offset points",
      va="top",
    )
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g}%"))
    ax.set(xlabel="distance of two generations", ylabel="pairs")
    legend(ax)

  return svg(
    "prompt-distances",
    "Share of pairs of generations at each distance, of one prompt and of two",
    draw,
    size=(4.7, 2.9),
  )

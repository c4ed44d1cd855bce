# SPDX-License-Identifier: Apache-2.0
"""Reconstruction on the page: what models filled in, seen beside not seen."""

from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from diffmem.report import images, words
from diffmem.report.results import Part, Results
from diffmem.report.svg import DASHES, HELD, MEMBER, MORE, MUTED, legend, svg

NAMES = {
  "seen": "seen in training",
  "not_seen": "not seen (the same images)",
  "seen_once": "seen once in training",
  "planted": "seen several times",
  "held_out": "not seen (other images)",
}
SIDE = 72  # CSS pixels of a picture, about
CLEAR = 0.01  # below this probability, chance does not explain it


def sentences(results: Results) -> list[str]:
  """What was filled in, with its control; none where the stage did not run."""
  part = results.parts.get("inpaint")
  if part is None:
    return []
  return [_sentence(part.results, test) for test in part.results["tests"]]


def _sentence(found: dict, test: dict) -> str:
  near, far = (found["groups"][test[k]] for k in ("of", "against"))
  p = test["p_value"]
  verdict = (
    f"nearer than chance explains (probability {words.probability(p)})"
    if p < CLEAR
    else f"no nearer than chance explains (probability {words.probability(p)})"
  )
  again = " again and again" if test["of"] == "planted" else ""
  if test["paired"]:
    nearer = test["nearer"]
    return (
      f"With a part of {words.several(near['targets'], 'image')} hidden, "
      f"models that were trained on them fill it in at a mean distance of "
      f"{words.decimal(near['top'][0])}, models that were not at "
      f"{words.decimal(far['top'][0])}; {words.count(nearer['count'])} of "
      f"{words.count(nearer['of'])} are nearer under the model that saw them: "
      f"{verdict}."
    )
  return (
    f"With a part of it hidden, the model fills in an image that it saw{again} "
    f"at a mean distance of {words.decimal(near['top'][0])} "
    f"({words.several(near['targets'], 'image')}), one that it never saw at "
    f"{words.decimal(far['top'][0])} "
    f"({words.several(far['targets'], 'image')}): {verdict}."
  )


def headline(results: Results) -> list[dict[str, str]]:
  """Rows of the page's first table: copies of what was hidden."""
  part = results.parts.get("inpaint")
  rows = []
  if part is None:
    return rows
  for test in part.results["tests"]:
    near, far = (part.results["groups"][test[k]] for k in ("of", "against"))
    one, other = near["within"]["0.1"], far["within"]["0.1"]
    others = "by models not trained on them"
    if not test["paired"]:
      others = "of held-out images"
    rows.append(
      {
        "what": "Hidden parts filled in within 0.1, of images "
        + NAMES[test["of"]].replace(" in training", ""),
        "value": _of(one),
        "interval": words.interval(one["interval"]),
        "control": f"{_of(other)} {others}",
        "control_interval": words.interval(other["interval"]),
      }
    )
  return rows


def context(results: Results) -> dict[str, Any]:
  """What the template needs; {"inpaint": None} where the stage did not run."""
  part = results.parts.get("inpaint")
  if part is None:
    return {"inpaint": None}
  found = part.results
  figure, caption = _figure(part)
  return {
    "inpaint": {
      "paired": found["paired"],
      "keep": words.count(found["keep"]),
      "candidates": words.count(found["candidates"]),
      "about": _about(found),
      "ranking": "how much better the model denoises them than another model "
      "that never saw the image either way"
      if found["ranked_by"] == "loss ratio"
      else "how well the model denoises them",
      "groups": [_group(name, g) for name, g in found["groups"].items()],
      "tests": [_test(test) for test in found["tests"]],
      "figure": figure,
      "caption": caption,
      "shown": _gallery(part),
    }
  }


def _about(found: dict) -> str:
  share = words.share(found["hidden"] / found["pixels"])
  how = (
    "Each image was filled in by two models of one pair: one was trained on "
    "it, its partner was not. Nothing else differs, the noise included."
    if found["paired"]
    else "The model filled in images that it was trained on, and others."
  )
  return (
    f"{share} of the pixels of each image were hidden and filled in "
    f"{words.count(found['candidates'])} times. {how}"
  )


def _group(name: str, group: dict) -> dict[str, Any]:
  distances = [group[key] for key in ("top", "first", "all")]
  return {
    "name": NAMES[name],
    "targets": words.count(group["targets"]),
    "distances": [
      (words.decimal(value), words.interval(ends, words.decimal))
      for value, *ends in distances
    ],
    "within": [
      (_of(share), words.interval(share["interval"]))
      for share in group["within"].values()
    ],
  }


def _test(test: dict) -> str:
  value, *ends = (words.signed(v, ".3f") for v in test["difference"])
  p = words.probability(test["p_value"])
  said = f"p {p}" if p.startswith("below") else f"p = {p}"
  return (
    f"{NAMES[test['of']].capitalize()} against {NAMES[test['against']]}: "
    f"{value} ({ends[0]} to {ends[1]}), {test['test']} test, one-sided, "
    f"{said}."
  )


def _figure(part: Part) -> tuple[Markup, str]:
  if part.results["paired"]:
    return _scatter(part.rows), (
      "Each point is one image: how near its hidden part was filled in by the "
      "model that did not see it (across) and by the one that did (up). Below "
      "the line, having seen it helped."
    )
  return _steps(part.rows), (
    "Share of images whose hidden part was filled in at most that far away."
  )


def _scatter(rows: list[dict[str, str]]) -> Markup:
  near, far = (
    {r["target_id"]: float(r["top"]) for r in rows if r["group"] == group}
    for group in ("seen", "not_seen")
  )
  points = np.array([(far[i], near[i]) for i in near])

  def draw(ax: Axes) -> None:
    top = 1.05 * points.max()
    ax.plot([0, top], [0, top], color=MUTED, lw=1, ls=DASHES[1])
    below = points[:, 1] < points[:, 0]
    for which, colour, marker in ((below, MEMBER, "o"), (~below, HELD, "x")):
      ax.scatter(
        *points[which].T, s=16, color=colour, marker=marker, alpha=0.8, lw=1
      )
    ax.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    ax.set(xlabel="distance, not seen", ylabel="distance, seen")

  return svg(
    "inpaint-pairs",
    f"Distances of {len(points)} images under models that saw them against "
    "models that did not",
    draw,
    size=(3.9, 3.6),
  )


def _steps(rows: list[dict[str, str]]) -> Markup:
  groups = dict.fromkeys(row["group"] for row in rows)

  def draw(ax: Axes) -> None:
    for i, group in enumerate(groups):
      x = np.sort([float(r["top"]) for r in rows if r["group"] == group])
      y = np.arange(1, len(x) + 1) / len(x)
      colour = HELD if group == "held_out" else (MEMBER, MORE[0])[i % 2]
      ax.step(
        np.r_[0, x],
        np.r_[0, y],
        where="post",
        color=colour,
        ls=DASHES[i],
        label=NAMES[group],
      )
    ax.set(xlabel="distance", ylabel="share of images", xlim=(0, None))
    legend(ax, columns=1)

  return svg(
    "inpaint-steps", "Share of images filled in within a distance", draw
  )


def _gallery(part: Part) -> list[dict[str, Any]]:
  pictures, shown = part.pictures, []
  about = part.results["gallery"]
  names = ["image", "shown", "seen" if part.results["paired"] else "filled in"]
  keys = ["truth", "visible", "seen"]
  if part.results["paired"]:
    names, keys = [*names, "not seen"], [*keys, "not_seen"]
  for i, row in enumerate(about[: len(pictures.get("truth", ()))]):
    distance = words.distance(row["seen"])
    if row["not_seen"] is not None:
      distance += f", not seen {words.distance(row['not_seen'])}"
    shown.append(
      {
        "id": row["id"],
        "about": f"seen {words.count(row['copies'])} times"
        if row["copies"] > 1
        else NAMES[row["group"]],
        "chosen": row["chosen"],
        "distance": distance,
        "pictures": [
          (images.from_array(pictures[key][i], SIDE), name)
          for key, name in zip(keys, names, strict=True)
        ],
      }
    )
  return shown


def _of(share: dict) -> str:
  return f"{words.count(share['count'])} of {words.count(share['of'])}"

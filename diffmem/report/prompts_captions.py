# SPDX-License-Identifier: Apache-2.0
"""The attack by prompt against what is known of captions, on the page."""

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from diffmem.report import words
from diffmem.report.svg import DASHES, HELD, MEMBER, counted, legend, svg

KINDS = {
  "duplicated": "of the most duplicated images",
  "outliers": "of outliers",
  "ordinary": "ordinary",
}
FOUND = {
  "repeated": "a training image that stands there more than once",
  "once": "a training image that stands there once",
  "collapsed": "no training image: the model repeats one of its own",
}


def sentences(found: dict | None, beside: dict | None) -> list[str]:
  """What planted captions say of the ranking, and the twin beside it.

  found: of this run's prompts; beside: of the run whose prompts it was asked.
  """
  if not found:
    return []
  said, planted = [], found["planted"]
  if planted:
    flagged, total = planted["flagged"][:2]
    others, ordinary = planted["ordinary_flagged"][:2]
    said.append(
      f"{words.several(total, 'prompt')} had a training image planted: "
      f"{words.count(flagged)} of these were flagged, and "
      f"{words.count(others)} of the {words.count(ordinary)} others."
    )
    at = planted["precision_at_recall"].get("0.8")
    said.append(
      "The flagged prompts do not reach four fifths of the planted ones."
      if at is None
      else f"Down the ranking to four fifths of the planted prompts, "
      f"{words.share(at)} were planted."
    )
  collapsed = found["found"]["collapsed"]
  if collapsed:
    said.append(
      f"{words.several(collapsed, 'flagged prompt')} "
      f"{'repeats' if collapsed == 1 else 'repeat'} an image that is near no "
      "training image: the model has collapsed there, which is not "
      "memorization."
    )
  theirs = (beside or {}).get("planted")
  if theirs:
    flagged, total = theirs["flagged"][:2]
    mine = found["kinds"] or {}
    asked = mine.get("duplicated", {}).get("flagged", [0, 0])
    said.append(
      f"The run whose prompts these are, trained with duplicates, had "
      f"{words.count(flagged)} of {words.count(total)} planted prompts "
      f"flagged; here {words.count(asked[0])} of the {words.count(asked[1])} "
      "prompts of its most duplicated images are."
    )
  return said


def rows(found: dict | None, beside: dict | None) -> list[dict[str, Any]]:
  """Flagged prompts of each kind, this run and the one beside it."""
  shown = []
  for kind, name in KINDS.items():
    mine = ((found or {}).get("kinds") or {}).get(kind)
    if not mine or not mine["prompts"]:
      continue
    theirs = ((beside or {}).get("kinds") or {}).get(kind)
    shown.append(
      {
        "name": name,
        **{key: _share(mine[key]) for key in ("flagged", "correct")},
        "extractable": _share(mine["extractable"]),
        "beside": _share(theirs["flagged"]) if theirs else "",
      }
    )
  return shown


def by_copies(
  found: dict | None, beside: dict | None
) -> list[tuple[str, str, str]]:
  """(copies, flagged of tested, the same beside), most copies first."""
  theirs = (beside or {}).get("by_copies") or {}
  mine = (found or {}).get("by_copies") or {}
  names = sorted({*mine, *theirs}, key=int, reverse=True)
  return [
    (words.count(int(n)), _of(mine.get(n)), _of(theirs.get(n))) for n in names
  ]


def cliques(found: dict | None) -> list[tuple[str, str]]:
  """What the flagged prompts' images are, and how many prompts."""
  counts = (found or {}).get("found") or {}
  return [
    (name, words.count(counts[key]))
    for key, name in FOUND.items()
    if counts.get(key)
  ]


def curve(found: dict | None) -> Markup | None:
  """Precision and recall of planted prompts down the ranking."""
  planted = (found or {}).get("planted") or {}
  points = planted.get("curve") or {}
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
    counted(ax, "x")
    ax.set(xlabel="prompts, best first", ylabel="share")
    legend(ax)

  return svg(
    "planted",
    f"Precision and recall of planted prompts over {ranks[-1]:,} flagged ones",
    draw,
    size=(4.7, 2.9),
  )


def _share(value: list | None) -> str:
  """[3, 20, low, high] -> "3 of 20 (3.2% to 37.9%)"."""
  if value is None:
    return ""
  return f"{_of(value)} ({words.interval(value[2:])})"


def _of(value: list | None) -> str:
  if value is None:
    return ""
  return f"{words.count(value[0])} of {words.count(value[1])}"

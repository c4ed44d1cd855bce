# SPDX-License-Identifier: Apache-2.0
"""What was done against memorization in training, and what it promises."""

from typing import Any

from diffmem.report import checks, images, words
from diffmem.report.results import Results


def summary(results: Results) -> dict[str, Any]:
  """What results.json says: "privacy" and "dedup", each None where absent."""
  return {"privacy": privacy(results), "dedup": dedup(results)}


def privacy(results: Results) -> dict[str, Any] | None:
  """The record of DP-SGD, with the lower bound of the one-run audit.

  "empirical" is {attack: epsilon refuted}, None where no audit was made.
  """
  made = (results.metas.get("train") or {}).get("privacy")
  if made is None:
    return None
  found = (results.membership_aside.get("_audits") or {}).get("one_run") or {}
  bounds = {
    name: one["epsilon"] for name, one in found.items() if isinstance(one, dict)
  }
  return {**made, "empirical": bounds or None}


def dedup(results: Results) -> dict[str, Any] | None:
  """What was removed, and how many of its groups came back all the same.

  "came_back" is {copies: [found, kept]} of images that had stood in training
  (with near-copies) so often, None without extraction.
  """
  about = ((results.data or {}).get("split") or {}).get("dedup")
  if about is None:
    return None
  came_back = None
  if results.extraction is not None and "matches" in results.pairs:
    found = {int(row["training_id"]) for row in results.pairs["matches"].rows}
    came_back = {
      copies: [len(found & {*ids}), len(ids)]
      for copies, ids in about["stood"].items()
    }
  return {**about, "came_back": came_back}


def context(results: Results) -> dict[str, Any]:
  """What the page's template takes."""
  made, removed = privacy(results), dedup(results)
  return {
    "privacy": None if made is None else _privacy(made, results),
    "dedup": None if removed is None else _dedup(removed, results),
  }


def _privacy(made: dict, results: Results) -> dict[str, Any]:
  rows = [
    {
      "copies": "once" if copies == "1" else f"{copies} times",
      "epsilon": _epsilon(value),
    }
    for copies, value in made["by_copies"].items()
  ]
  facts = [
    ("noise", f"{made['noise_multiplier']:.3g} clip norms"),
    ("clip norm of a row's gradient", f"{made['clip']:g}"),
    ("chance of a row to be in a step", f"{made['rate']:.3g}"),
    ("steps", words.count(made["steps"])),
    ("rows of training", words.count(made["rows"])),
    ("unit of privacy", made["unit"]),
  ]
  return {
    "says": _promise(made),
    "rows": rows,
    "facts": facts,
    "delta": f"{made['delta']:g}",
    "bound": checks.one_run(results.membership_aside),
    "empirical": made["empirical"],
  }


def _epsilon(value: float | None) -> str:
  if value is None:
    return "none: no noise"
  return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _promise(made: dict) -> str:
  if made["epsilon"] is None:
    return (
      "Gradients were clipped one by one, but no noise was added: that is no "
      "differential privacy."
    )
  said = (
    f"Trained with DP-SGD: ({_epsilon(made['epsilon'])}, {made['delta']:g})-"
    "differentially private for an image that is seen once"
  )
  if made["empirical"]:
    name = next(iter(made["empirical"]))
    low = made["empirical"][name]
    said += (
      f"; the {name} attack refutes every ε below {low:.2f} by one run"
      if low > 0
      else f"; the {name} attack refutes no ε by one run"
    )
  return f"{said}."


def _dedup(found: dict, results: Results) -> dict[str, Any]:
  before, after = found["rows"]
  ids, left = found["ids"]
  says = (
    f"{words.count(before - after)} of {words.several(before, 'row')} of "
    f"training were near-duplicates of others and were removed; "
    f"{words.count(left)} of {words.several(ids, 'distinct image')} stayed, "
    "each once."
  )
  rows = [
    {
      "copies": f"{copies} times",
      "kept": words.count(len(ids)),
      "found": words.count(found["came_back"][copies][0])
      if found["came_back"]
      else "not known",
    }
    for copies, ids in sorted(
      found["stood"].items(), key=lambda item: -int(item[0])
    )
  ]
  return {"says": says, "rows": rows, "gallery": _gallery(results)}


def _gallery(results: Results) -> dict[str, Any]:
  table, pictures = results.removed, results.removed_pictures
  if "kept" not in pictures:
    return {"shown": [], "total": len(table)}
  shown = [
    {
      **row,
      "kept": images.from_array(kept),
      "removed": images.from_array(removed),
      "distance": words.distance(float(row["distance"])),
    }
    for row, kept, removed in zip(
      table, pictures["kept"], pictures["removed"], strict=False
    )
  ]
  return {"shown": shown, "total": len(table)}

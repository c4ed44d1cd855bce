# SPDX-License-Identifier: Apache-2.0
"""Detectors of memorized prompts on the page: a table, and its control."""

from typing import Any

from diffmem.report import words

NAMES = {
  "magnitude": "Text-conditional magnitude",
  "confidence": "Denoising confidence, one step",
  "edges": "Edges that agree, one step, black-box",
}


def context(found: dict | None) -> dict[str, Any] | None:
  """What the template asks for; None where no detector was asked for."""
  if not found:
    return None
  if "missing" in found:
    return {"missing": found["missing"]}
  prompts = found["prompts"]
  rows = [row(name, one) for name, one in found["detectors"].items()]
  return {
    "missing": None,
    "planted": words.several(prompts["planted"], "planted caption"),
    "ordinary": words.count(prompts["ordinary"]),
    "unseen": prompts["unseen"] and words.count(prompts["unseen"]),
    "rows": rows,
    "fewer": [
      {
        "steps": words.count(one["steps"]),
        "draws": words.count(one["draws"]),
        "auc": value(one["auc"], words.decimal),
      }
      for name in found["detectors"]
      for one in found["detectors"][name]["exploratory"]
    ],
  }


def row(name: str, one: dict[str, Any]) -> dict[str, Any]:
  """One detector: its numbers as texts."""
  return {
    "name": NAMES.get(name, name),
    "source": one["source"],
    "queries": words.count(one["queries"]),
    "auc": value(one["auc"], words.decimal),
    "tpr": value(one["tpr@0.01"], words.share),
    "unseen": value(one["ordinary_against_unseen"], words.decimal),
  }


def value(found: list[float] | None, how: Any) -> str:
  """Value (low to high), or why there is none."""
  if found is None:
    return "cannot be told"
  return f"{how(found[0])} ({words.interval(found[1:], how)})"

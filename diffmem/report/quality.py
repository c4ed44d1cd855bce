# SPDX-License-Identifier: Apache-2.0
"""How good generations are, on the page, with real images as a floor."""

from collections.abc import Sequence
from typing import Any

from diffmem.report import words
from diffmem.report.results import Results

ROWS = {
  "to_training": "Generations, against the training set with its copies",
  "to_members": "Generations, against training images, each once",
  "to_held_out": "Generations, against held-out images",
  "floor": "Held-out images, against training images, each once: no model "
  "involved",
  "training_to_held_out": "The training set with its copies, against held-out "
  "images: no model involved",
}
FEATURES = {
  "classifier": "a small network trained on these images to tell each from the "
  "others",
  "pixels": "pixels",
  "file": "embeddings of a file",
  "inception": "the Inception network of the FID",
}
COLUMNS = ("frechet", "precision", "recall", "density", "coverage")


def features(found: dict[str, Any]) -> str:
  """What the numbers of quality look at."""
  name: str = found["features"]["name"]
  return FEATURES.get(name, name)


def frechet(found: dict[str, Any]) -> str:
  """FID on the features it is defined on, elsewhere not."""
  inception = found["features"]["name"] == "inception"
  return "FID" if inception else "Fréchet distance"


def context(results: Results) -> dict[str, Any]:
  """What the template needs; {"quality": None} where it did not run."""
  part = results.parts.get("quality")
  if part is None:
    return {"quality": None}
  found = part.results
  # Older results have no pair with copies.
  pairs = {name: found[name] for name in ROWS if found.get(name) is not None}
  missing = [p["frechet_missing"] for p in pairs.values() if not p["frechet"]]
  return {
    "quality": {
      "features": features(found),
      "frechet": frechet(found),
      "dimensions": words.count(found["features"]["dimensions"]),
      "images": words.count(found["images"]),
      "groups": words.count(found["groups"]),
      "neighbours": found["neighbours"],
      "copies": "to_training" in pairs,
      "rows": [
        {
          "name": ROWS[name],
          "cells": [
            cell(pair[key]) if key in pair else ("", "") for key in COLUMNS
          ],
          "bias": bias(pair),
        }
        for name, pair in pairs.items()
      ],
      "missing": missing[0] if missing else None,
      "loss": _loss(found.get("loss")),
    }
  }


def cell(value: Sequence[int | float] | None) -> tuple[str, str]:
  """(value, interval) in three digits that count."""
  if value is None:
    return "not measured", ""
  return number(value[0]), words.interval(value[1:], number)


def number(x: int | float) -> str:
  """Three digits: 0.0123, 0.912, 12.3."""
  small = x != 0 and abs(x) < 0.1
  return words.signed(float(f"{x:.3g}"), ".3g" if small else _form(x))


def bias(pair: dict[str, Any]) -> str:
  """By how much the Frechet distance is too large at this n."""
  if pair["frechet"] is None:
    return ""
  return number(pair["bias"]["frechet"])


def _form(x: int | float) -> str:
  return ".3f" if abs(x) < 10 else ".1f"


def _loss(found: dict[str, Any] | None) -> dict[str, Any] | None:
  """Denoising losses; None where there is no denoiser."""
  if found is None:
    return None
  names = [n for n in ("members", "held_out", "gap") if n in found]
  rows = [{"t": "all, evenly", "cells": [cell(found[n]) for n in names]}]
  rows += [
    {"t": words.count(row["t"]), "cells": [cell(row[n]) for n in names]}
    for row in found["by_time"]
  ]
  return {
    "times": words.count(found["times"]),
    "draws": words.several(found["draws"], "draw"),
    "images": {k: words.count(n) for k, n in found["images"].items()},
    "rows": rows,
  }

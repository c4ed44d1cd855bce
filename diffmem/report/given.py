# SPDX-License-Identifier: Apache-2.0
"""What was given to an audit of somebody else's images, and what was not."""

from typing import Any

from diffmem.report import words
from diffmem.report.results import Results

LISTED = 100  # files left out that are shown


def facts(results: Results) -> dict[str, Any] | None:
  """What the import recorded of its source; None for a bank of our own."""
  made = results.metas.get("sample") or {}
  if not results.outside or not made:
    return None
  return {
    key: made[key]
    for key in ("source", "rule", "counts", "prompts", "generated", "pipeline")
    if key in made
  }


def rows(results: Results) -> list[tuple[str, str]]:
  """The same as (name, text), with what is known of the training images."""
  made = results.metas.get("sample") or {}
  told: list[tuple[str, str]] = []
  source, rule = made.get("source"), made.get("rule") or {}
  if isinstance(source, dict):
    told.append(("generations from", f"{source['path']} ({source['kind']})"))
  if "generated" in made:
    told.append(("generations", words.count(made["generated"])))
  if made.get("shape"):
    told.append(("size", "x".join(map(str, made["shape"]))))
  told += [(f"{key}", str(v)) for key, v in rule.items() if v is not None]
  prompts = made.get("prompts")
  if isinstance(prompts, dict):
    count = words.several(prompts.get("count") or 0, "prompt")
    told.append(("prompts", f"{count}, from {prompts.get('from')}"))
  told += _training(results)
  return told


def _training(results: Results) -> list[tuple[str, str]]:
  """Training and held-out images, or that there were none."""
  split = (results.data or {}).get("split") or {}
  if not split:
    return [("training images", "none were given")]
  dataset = (results.data or {}).get("dataset") or {}
  told = [
    (
      "training images",
      f"{words.count(split.get('members', 0))} different ones "
      f"({words.several(split.get('duplicates_in_training', 0), 'duplicate')})"
      f" from {dataset.get('path', dataset.get('source', ''))}",
    )
  ]
  if dataset.get("held_out"):
    told.append(
      (
        "held-out images",
        f"{words.count(split.get('held_out', 0))} for the control and "
        f"{words.count(split.get('calibration', 0))} for the threshold, from "
        f"{dataset['held_out']}",
      )
    )
  else:
    told.append(("held-out images", "none were given"))
  return told


def left_out(results: Results) -> dict[str, Any]:
  """Counts by reason, and the first files."""
  made = results.metas.get("sample") or {}
  counts = (made.get("counts") or {}).get("left_out_by_reason") or {}
  return {
    "total": len(results.left_out),
    "counts": [(name, words.count(n)) for name, n in counts.items()],
    "shown": results.left_out[:LISTED],
  }

# SPDX-License-Identifier: Apache-2.0
"""The tables of the page: rows of strings, made from results."""

import math
import re
from typing import Any

from diffmem.report import claims, inpaint, verdict, words
from diffmem.report.results import Results


def tiles(results: Results) -> list[dict[str, str]]:
  """The few figures that stand out: value, what of, what it is."""
  shown = []
  found = results.extraction
  if found is not None:
    held_out = found["held_out"]
    shown.append(_tile(found["unique"], found["searched"], "member"))
    shown[-1]["what"] = "training images reproduced"
    if held_out["searched"]:
      shown.append(_tile(held_out["unique"], held_out["searched"], "held"))
      shown[-1]["what"] = "held-out images matched: the control"
    many = [v for k, v in found.get("planted", {}).items() if int(k) > 1]
    if many:
      got, placed = (sum(v[i] for v in many) for i in (0, 1))
      shown.append(_tile(got, placed, "plain"))
      shown[-1]["what"] = "planted images found again"
  if results.prompts is not None:
    flagged, tested = (results.prompts[k] for k in ("flagged", "tested"))
    shown.append(_tile(flagged, tested, "member"))
    shown[-1]["what"] = "prompts that give one picture"
  name = claims.leading(results.membership or {})
  if results.membership and name is not None:
    value, low, high = results.membership[name]["auc"]
    shown.append(
      {
        "value": f"{value:.3f}",
        "of": f"[{low:.3f}, {high:.3f}]",
        "what": f"AUC of the {name} attack; 0.5 is guessing",
        "kind": "plain",
      }
    )
  return shown


def _tile(k: int, n: int, kind: str) -> dict[str, str]:
  return {"value": words.count(k), "of": f"of {words.count(n)}", "kind": kind}


def headline(results: Results) -> list[dict[str, str]]:
  """Question, answer with its interval, and the control beside it."""
  rows = []
  if results.extraction is not None:
    rows += _extraction_rows(results.extraction)
  if results.prompts is not None:
    rows.append(_prompts_row(results.prompts))
  rows += inpaint.headline(results)
  membership = results.membership or {}
  named: list[str] = list(membership)
  if len(named) > 2:  # the others are told in their own section
    best = claims.best(membership) or ("",)
    told = {claims.leading(membership), best[0]}
    named = [name for name in membership if name in told]
  for name in named:
    rows += _attack_rows(name, membership[name])
  return rows


def _extraction_rows(found: dict) -> list[dict[str, str]]:
  held_out = found["held_out"]
  searched = held_out["searched"]
  rows = [
    {
      "what": "Training images reproduced",
      "value": _of(found["unique"], found["searched"]),
      "interval": _rate(found, found["unique"], found["searched"]),
      "control": _control(found, searched),
      "control_interval": _rate(held_out, held_out["unique"], searched),
    }
  ]
  members, false, size = verdict.equal_sets(found)
  if size and size != found["searched"]:
    rows.append(
      {
        "what": "The same in sets of equal size",
        "value": _of(members, size),
        "interval": words.interval(words.exact_interval(members, size)),
        "control": f"{_of(false, size)} held-out images",
        "control_interval": words.interval(words.exact_interval(false, size)),
      }
    )
  if found.get("second"):
    rows.append(_second_row(found["second"]))
  if held_out.get("real_searched"):
    real, out_of = held_out["real_matches"], held_out["real_searched"]
    rows.append(
      {
        "what": "Real held-out images that the rule would call a copy of a "
        "training image",
        "value": _of(real, out_of),
        "interval": words.interval(words.exact_interval(real, out_of)),
        "control": "no model involved: how alike the data are",
        "control_interval": "",
      }
    )
  return rows


def _prompts_row(found: dict) -> dict[str, str]:
  """Flagged prompts beside groups across prompts."""
  control = found.get("control") or {}
  groups = control.get("groups")
  return {
    "what": "Prompts that give one picture again and again",
    "value": _of(found["flagged"], found["tested"]),
    "interval": words.interval(
      words.exact_interval(found["flagged"], found["tested"])
    ),
    "control": f"{_of(control['flagged'], groups)} groups of images of "
    "different prompts"
    if groups
    else "none: too few prompts to mix",
    "control_interval": words.interval(control["interval"]) if groups else "",
  }


def _second_row(other: dict) -> dict[str, str]:
  """The second distance beside its control."""
  held_out = other["held_out"]
  return {
    "what": "Training images reproduced, by the second distance "
    f"({other['name']})",
    "value": _of(other["unique"], other["searched"]),
    "interval": _rate(other, other["unique"], other["searched"]),
    "control": f"{_of(held_out['unique'], held_out['searched'])} held-out "
    "images",
    "control_interval": _rate(
      held_out, held_out["unique"], held_out["searched"]
    ),
  }


def _control(found: dict, searched: int) -> str:
  """The count of held-out images, or what stands for it."""
  if searched:
    return f"{_of(found['held_out']['unique'], searched)} held-out images"
  control = found.get("control") or {}
  if "expected" not in control:
    return "none: no held-out images"
  low, high = control["expected"][1:]
  return (
    f"{words.count(control['generations'])} generations match; by chance "
    f"{low:.0f} to {high:.0f} would"
  )


def _rate(part: dict, k: int, n: int) -> str:
  ends = part.get("unique_interval") or words.exact_interval(k, n)
  return words.interval(ends) if n else ""


def _of(k: int, n: int) -> str:
  return f"{words.count(k)} of {words.count(n)}"


def _attack_rows(name: str, attack: dict) -> list[dict[str, str]]:
  rows = []
  if attack.get("auc"):
    rows.append(
      {
        "what": f"Membership, {name} attack: AUC",
        "value": words.decimal(attack["auc"][0]),
        "interval": words.interval(attack["auc"][1:], words.decimal),
        "control": "0.5 by guessing",
        "control_interval": "",
      }
    )
  for fpr in fprs(attack):
    value, interval = rate_cell(attack, f"tpr@{fpr:g}")
    rows.append(
      {
        "what": f"Membership, {name} attack: training images recognised at "
        f"{words.share(fpr)} false alarms",
        "value": value,
        "interval": interval,
        "control": f"{words.share(fpr)} by guessing",
        "control_interval": "",
        "resolved": bool(interval),
      }
    )
  return rows


def fprs(attack: dict) -> list[float]:
  """The false positive rates that its TPR is given at, highest first."""
  keys = (re.fullmatch(r"tpr@([0-9.e-]+)", key) for key in attack)
  return sorted((float(k[1]) for k in keys if k), reverse=True)


def rate_cell(attack: dict, key: str) -> tuple[str, str]:
  """(value, interval), or the words for what cannot be resolved."""
  if attack.get(key) is not None:
    value, low, high = attack[key]
    return words.share(value), words.interval((low, high))
  count = attack.get("non_members")
  with_so_few = f" with {words.count(count)} non-members" if count else ""
  return f"not resolvable{with_so_few}", ""


def planted(found: dict) -> list[dict[str, Any]]:
  """One row for each number of copies, most first."""
  rows = []
  entries = {int(k): v for k, v in found.get("planted", {}).items()}
  for copies in sorted(entries, reverse=True):
    got, out_of = entries[copies]
    rows.append(
      {
        "copies": "once" if copies == 1 else f"{words.count(copies)} times",
        "planted": words.count(out_of),
        "found": words.count(got),
        "share": words.share(got / out_of) if out_of else "–",
        "percent": round(100 * got / out_of, 1) if out_of else 0,
        "interval": words.interval(words.exact_interval(got, out_of)),
      }
    )
  return rows


KINDS = {
  "matches": "matches",
  "near_misses": "near misses",
  "false_matches": "false matches, with held-out images",
  "second": "matches of the second distance alone",
  "second_false": "its false matches",
  "prompts": "flagged prompts",
}


def by_hand(found: dict, results: Results) -> list[dict[str, str]]:
  """One row a kind of card: copies by eye, beside what the rule says."""
  rows = []
  training = (results.prompts or {}).get("with_training") or {}
  for kind, said in found["by_hand"].items():
    most = said["most"]
    sure = most["copy"] + most["no"]
    automatic = "copies" if kind in ("matches", "second") else "no copies"
    if kind == "prompts":
      precision = training.get("precision")
      automatic = (
        f"{words.share(precision[0])} ({words.interval(precision[1:])})"
        if precision
        else "not known"
      )
    rows.append(
      {
        "kind": KINDS[kind],
        "value": f"{_of(most['copy'], sure)}" if sure else "none marked",
        "interval": words.interval(most["share"][1:]) if sure else "",
        "unsure": words.count(most["unsure"]),
        "automatic": automatic,
      }
    )
  return rows


def stages(results: Results) -> list[dict[str, str]]:
  """Each finished stage: its time, machine, version."""
  rows = []
  for name, meta in results.metas.items():
    machine = meta.get("hardware") or {}
    where = [machine.get("devices"), machine.get("machine")]
    if machine.get("cpus"):
      where.append(words.several(machine["cpus"], "CPU core"))
    software = [
      f"{label} {machine[key]}"
      for key, label in (("python", "Python"), ("jax", "JAX"))
      if machine.get(key)
    ]
    rows.append(
      {
        "name": name,
        "seconds": words.seconds(meta.get("seconds")),
        "runs": words.count(meta.get("runs", 1)),
        "started": str(meta.get("started", "")).replace("T", " ")[:16],
        "hardware": ", ".join(str(w) for w in where if w),
        "software": ", ".join(software),
        "version": str(meta.get("version", "")),
        "commit": str(meta.get("commit") or "")[:10],
      }
    )
  return rows


def total_seconds(results: Results) -> str:
  """The time of all finished stages together."""
  return words.seconds(
    sum(meta.get("seconds") or 0.0 for meta in results.metas.values())
  )


def finite(value: Any) -> Any:
  """The same plain value, with null for what JSON cannot say."""
  if isinstance(value, dict):
    return {key: finite(v) for key, v in value.items()}
  if isinstance(value, list | tuple):
    return [finite(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value

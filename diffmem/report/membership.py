# SPDX-License-Identifier: Apache-2.0
"""The membership part of the page: tables, galleries, sentences."""

from typing import Any

import numpy as np

from diffmem.report import checks, claims, images, tables, words
from diffmem.report import figures_membership as figures
from diffmem.report.results import Results

CRITERIA = {
  "auc": "the AUC",
  "tpr@0.01": "what is recognised at 1% false alarms",
}
KINDS = {
  "lira": "Carlini et al. 2022",
  "rmia": "Zarifzadeh et al. 2024",
  "loss": "one threshold for all losses",
}
SHOWN = 12  # images of a group
GROUPS = {
  "members_found": "Easiest members: those that score highest",
  "members_missed": "Hardest members: those that score lowest",
  "non_members_flagged": "Hardest non-members: those that score highest",
  "non_members_cleared": "Easiest non-members: those that score lowest",
}


def context(results: Results) -> dict[str, Any]:
  """Everything that the template of membership asks for."""
  found, aside = results.membership or {}, results.membership_aside
  lead = claims.leading(found)
  return {
    "leading": lead,
    "attack_groups": groups(found),
    "attack_fprs": _fprs(found),
    "choosing": choosing(found, aside),
    "counts_differ": not same_counts(found),
    "many_models": max(
      (a.get("models") or 1 for a in found.values()), default=1
    )
    > 1,
    "upside_down": upside_down(found),
    "membership_tested": claims.tested(found, aside),
    "transferred": transferred(found),
    "roc": figures.roc(results.curves, found),
    "highlighted": figures.highlighted(found),
    "sweep_auc": figures.sweep(found, "auc"),
    "sweep_tpr": figures.sweep(found, claims.AT),
    "sweeps": sweeps(found),
    "draws": figures.draws(found),
    "by_draws": by_draws(found),
    "by_copies": by_copies(found),
    "own_model": own_model(found),
    "step_curve": figures.by_step(aside.get("_by_step") or {}),
    "step_losses": figures.losses(aside.get("_by_step") or {}),
    "by_step": by_step(aside),
    "easiest": gallery(results),
    "controls": checks.controls(aside),
    "joined": checks.joined(aside),
    "canaries": checks.canaries(aside),
    "canary_curve": figures.exposure(
      (aside.get("_audits") or {}).get("canaries")
    ),
    "one_run": checks.one_run(aside),
    "sets": checks.sets(aside),
  }


def _fprs(membership: dict) -> list[float]:
  return sorted(
    {f for attack in membership.values() for f in tables.fprs(attack)},
    reverse=True,
  )


def groups(membership: dict) -> list[dict[str, Any]]:
  """Attacks with shadow models and without, each from the highest AUC down."""
  fprs, lead = _fprs(membership), claims.leading(membership)
  found = []
  for shadow, title in (
    (True, "With shadow models: others, trained on known halves, are compared"),
    (False, "With the model alone"),
  ):
    names = [
      name
      for name, attack in membership.items()
      if (attack.get("kind") == "shadow") == shadow
    ]
    names.sort(key=lambda k: -(membership[k].get("auc") or [0])[0])
    rows = [
      _attack(name, membership[name], fprs) | {"leading": name == lead}
      for name in names
    ]
    if rows:
      found.append({"title": title, "rows": rows})
  if len(found) == 1 and found[0]["title"].startswith("With the model"):
    found[0]["title"] = ""
  return found


def _attack(name: str, attack: dict, fprs: list[float]) -> dict[str, Any]:
  return {
    "name": name,
    "about": _about(attack),
    "auc": _ends(attack.get("auc"), words.decimal),
    "rates": [tables.rate_cell(attack, f"tpr@{f:g}") for f in fprs],
    "t": "–" if attack.get("t") is None else str(attack["t"]),
    "how": _how(attack),
    "images": _images(attack),
  }


def _about(attack: dict) -> str:
  """Its source, its variant, what it costs."""
  options = attack.get("options") or {}
  kind = attack.get("attack") or ""
  parts = [attack.get("source") or KINDS.get(kind, kind)]
  parts += [
    str(options[key])
    for key in ("variant", "mode", "normalise", "classifier", "regressor")
    if options.get(key) and options[key] != "none"
  ]
  if options.get("variance") == "example":
    parts.append("variance of each image")
  if options.get("attack"):
    parts.append(f"on the scores of {options['attack']}")
  if attack.get("draws") is not None:
    parts.append(words.several(attack["draws"], "noise draw"))
  if attack.get("queries"):
    parts.append(f"{words.several(attack['queries'], 'model call')} an image")
  return ", ".join(p for p in parts if p)


def _how(attack: dict) -> str:
  if len(attack.get("sweep") or []) < 2:
    return ""
  return "chosen" if attack.get("chosen") else "fixed"


def _images(attack: dict) -> str:
  """How many members and non-members, or pairs of them with a model."""
  counts = [attack.get(key) for key in ("members", "non_members")]
  if None in counts:
    return "–"
  return " / ".join(words.count(n) for n in counts if n is not None)


def choosing(membership: dict, aside: dict) -> list[str]:
  """How times were chosen, and on how many images the numbers stand."""
  attacks = claims.scored(membership)
  said = []
  many = max((a.get("models") or 1 for a in attacks.values()), default=1)
  unit = " (pairs of an image and a model)" if many > 1 else ""
  if many > 1:
    said.append(
      f"{words.count(many)} models were attacked in turn; an image is a member "
      "of some and not of others, so counts are of pairs of an image and a "
      "model. Intervals are over images."
    )
  if same_counts(membership):
    one = next(iter(attacks.values()))
    said.append(f"The numbers come from {_members(one)}{unit}.")
  several = [
    a for a in attacks.values() if len(a.get("sweep") or []) > 1
  ]  # those with something to choose
  chosen = [a["chosen"] for a in several if a.get("chosen")]
  on = (aside.get("_parts") or {}).get("choose")
  if chosen:
    rules = sorted({CRITERIA.get(c["criterion"]) or "?" for c in chosen})
    said.append(
      f"The noise level t was chosen by {words.joined(rules)}, on "
      f"{_members(on or chosen[0].get('on') or {})}{unit} that none of these "
      "numbers comes from."
    )
  elif several:
    said.append(
      "The noise level t was fixed in advance, before any score was seen."
    )
  return said


def same_counts(membership: dict) -> bool:
  """Whether all attacks are reported on as many images."""
  counts = {_images(a) for a in claims.scored(membership).values()}
  return len(counts) == 1 and counts != {"–"}


def _members(counts: dict) -> str:
  return (
    f"{words.several(counts.get('members', 0), 'member')} and "
    f"{words.several(counts.get('non_members', 0), 'non-member')}"
  )


def upside_down(membership: dict) -> list[str]:
  """Attacks that at some time rank members clearly below others."""
  return [
    name
    for name, attack in claims.scored(membership).items()
    if any(
      isinstance(e.get("auc"), list | tuple) and e["auc"][2] < 0.5
      for e in attack.get("sweep") or [attack]
    )
  ]


def transferred(membership: dict) -> list[dict[str, str]]:
  """Thresholds set elsewhere, with the false alarms they realise."""
  rows = []
  for name, attack in membership.items():
    found = attack.get("transferred")
    if not found or not found.get("realised_fpr"):
      continue
    value, low, high = found["realised_fpr"]
    asked = found["fpr"]
    keeps = "as set"
    if low > asked:
      keeps = "more false alarms than set"
    elif high < asked:
      keeps = "fewer false alarms than set"
    rows.append(
      {
        "name": name,
        "set_on": f"{words.count(found['set_on'])} scores of {found['set_by']}",
        "asked": words.share(asked),
        "realised": words.share(value),
        "realised_interval": words.interval((low, high)),
        "tpr": words.share(found["tpr"][0]) if found.get("tpr") else "–",
        "tpr_interval": words.interval(found["tpr"][1:])
        if found.get("tpr")
        else "",
        "keeps": keeps,
      }
    )
  return rows


def sweeps(membership: dict) -> list[dict[str, Any]]:
  """Every attack at every time."""
  fprs = _fprs(membership)
  rows = []
  for name, attack in membership.items():
    entries = [e for e in attack.get("sweep") or [] if e.get("auc")]
    if len(entries) < 2:
      continue
    for i, entry in enumerate(entries):
      rows.append(
        {
          "name": name if i == 0 else "",
          "t": entry.get("t"),
          "auc": _ends(entry["auc"], words.decimal),
          "rates": [tables.rate_cell(entry, f"tpr@{f:g}") for f in fprs],
          "chosen": entry.get("t") == attack.get("t"),
        }
      )
  return rows


def by_draws(membership: dict) -> list[dict[str, Any]]:
  """Every attack on losses with fewer draws and augmentations."""
  fprs = _fprs(membership)
  return [
    {
      "name": name if i == 0 else "",
      "draws": words.count(entry["draws"]),
      "augment": words.joined(entry.get("augment") or ()),
      "auc": _ends(entry.get("auc"), words.decimal),
      "rates": [tables.rate_cell(entry, f"tpr@{f:g}") for f in fprs],
    }
    for name, attack in membership.items()
    if len(attack.get("by_draws") or []) > 1
    for i, entry in enumerate(attack["by_draws"])
  ]


def by_copies(membership: dict) -> dict[str, Any] | None:
  """AUC of each attack by how often an image was in training."""
  found = {k: v for k, a in membership.items() if (v := claims.copies(a))}
  counts = sorted({c for v in found.values() for c in v}, reverse=True)
  if not counts:
    return None
  rows = [
    {
      "name": name,
      "cells": [_ends(v.get(c), words.decimal) for c in counts],
    }
    for name, v in found.items()
  ]
  heads = ["once" if c == 1 else f"planted {c} times" for c in counts]
  return {"heads": heads, "rows": rows}


def own_model(membership: dict) -> list[dict[str, Any]]:
  """Attacks with shadows on the workdir's own model, told apart."""
  fprs = _fprs(membership)
  return [
    {
      "name": name,
      "auc": _ends(attack["main"].get("auc"), words.decimal),
      "rates": [tables.rate_cell(attack["main"], f"tpr@{f:g}") for f in fprs],
      "images": _images(attack["main"]),
    }
    for name, attack in membership.items()
    if attack.get("main")
  ]


def by_step(aside: dict) -> dict[str, Any] | None:
  """The loss attack on earlier checkpoints."""
  found = aside.get("_by_step") or {}
  if not found.get("steps"):
    return None
  return {
    "t": found.get("t"),
    "rows": [
      {
        "step": words.count(s["step"]),
        "members": f"{s['loss_of_members']:.4g}",
        "non_members": f"{s['loss_of_non_members']:.4g}",
        "auc": _ends(s.get("auc"), words.decimal),
        "tpr": tables.rate_cell(s, claims.AT),
      }
      for s in found["steps"]
    ],
  }


def gallery(results: Results) -> dict[str, Any] | None:
  """Easiest and hardest images, with their scores, and who they are."""
  found = results.membership_aside.get("_images") or {}
  arrays, shown = results.membership_pictures, []
  for key, title in GROUPS.items():
    pictures = arrays.get(f"{key}_images")
    numbers = (found.get("groups") or {}).get(key) or {}
    if pictures is None or not len(pictures):
      continue
    ids = arrays.get(f"{key}_ids", np.arange(len(pictures)))
    cards = [
      {
        "picture": images.from_array(pictures[i], 64),
        "id": str(ids[i]),
        "score": _number(_at(numbers.get("scores"), i)),
        "copies": _at(numbers.get("copies"), i) or 0,
        "isolation": _number(_at(numbers.get("isolation"), i)),
      }
      for i in range(min(SHOWN, len(pictures)))
    ]
    shown.append({"title": title, "cards": cards})
  if not shown:
    return None
  isolation = found.get("isolation") or {}
  return {
    "attack": found.get("attack"),
    "groups": shown,
    "neighbours": isolation.get("neighbours"),
    "relations": relations(found),
    "skipped": isolation.get("skipped"),
  }


def relations(found: dict) -> list[dict[str, str]]:
  """Rank correlations of the score with what is known of an image."""
  isolation = found.get("isolation") or {}
  rows = []
  for key, what, value in (
    ("members", "the score as a member with the distance", isolation),
    ("non_members", "the score as a non-member with the distance", isolation),
    ("gap", "the difference of the two with the distance", isolation),
    ("copies", "the score as a member with the times in training", found),
  ):
    one = value.get(key)
    if one:
      rows.append(
        {
          "what": what,
          "rho": words.signed(one["rho"]),
          "p": words.probability(one["p"]),
          "images": words.count(one["images"]),
        }
      )
  return rows


def _ends(value: Any, how) -> tuple[str, str]:
  """(value, interval)."""
  if value is None:
    return "–", ""
  if not isinstance(value, list | tuple):
    return how(value), ""
  return how(value[0]), words.interval(value[1:], how)


def _at(values, i: int) -> Any:
  return values[i] if values is not None and i < len(values) else None


def _number(value: Any) -> str:
  return "" if value is None else words.signed(value, ".3g")

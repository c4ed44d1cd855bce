# SPDX-License-Identifier: Apache-2.0
"""What a study keeps of each audit: the few numbers that its claims rest on.

All of them are read from result files; the counts of extraction are also taken
again with other options of the rule (`RULES`), and the two ways of ranking are
compared at an equal number of flagged images (`flagged`), from the searches on
disk.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

import diffmem.data
from diffmem import distances, workdir
from diffmem.arrays import Float, UInt8
from diffmem.extraction import attack, rule, side_pairs
from diffmem.extraction import run as extraction
from diffmem.extraction.rule import Searched
from diffmem.report import results

Sets = dict[str, Searched]  # members, held-out and calibration images
RULES = tuple(itertools.product((0.3, 0.5, 0.7), (10, 25, 50)))  # alpha, n
FLAGGED = 100  # distinct images, members and held-out ones together
RATES = ("tpr@0.01", "tpr@0.001")


def observe(root: epath.Path) -> dict[str, Any]:
  """The numbers of one finished audit, by what they are about.

  Raises FileNotFoundError where the audit has not finished.
  """
  found = workdir.read_json(root / "report" / "results.json")
  about: dict[str, Any] = {
    "command": workdir.read_json(root / "command.json"),
    "train_seconds": found["stages"].get("train", {}).get("seconds"),
  }
  for name, read in READERS.items():
    if found.get(name):
      about[name] = read(found[name], root)
  return about


def _extraction(found: dict, root: epath.Path) -> dict[str, Any]:
  rows = results.read(root).pairs["matches"].rows
  dataset, split = diffmem.data.read(root / "data")
  config = workdir.read_json(root / "extraction" / "meta.json")["config"]
  options = config["extraction"]
  searched = {
    n: extraction.searched(root, dataset, split, n)
    for n in {*(n for _, n in RULES), options["neighbours"]}
  }
  return {
    "unique": found["unique"],
    "held_out": found["held_out"]["unique"],
    "searched": found["searched"],
    "generated": found["generated"],
    "planted": found["planted"],
    "copies": {row["training_id"]: int(row["copies"]) for row in rows},
    "rules": _rules(searched, options, config["seed"]),
    "flagged": _flagged(searched[options["neighbours"]], options),
  }


def _rules(searched: dict[int, Sets], options: dict, seed: int) -> list[dict]:
  """Members and held-out images found by each of RULES, calibrated anew."""
  rows = []
  for alpha, neighbours in RULES:
    sets = searched[neighbours]
    used, _ = rule.calibrate(
      sets["calibration"],
      alpha=alpha,
      neighbours=neighbours,
      centring=options["centring"],
      false_match_rate=options["false_match_rate"],
      seed=seed,
    )
    unique, held_out = (
      len(attack.matches(sets[name], used)) for name in ("members", "held_out")
    )
    rows.append(
      {
        "alpha": alpha,
        "neighbours": neighbours,
        "unique": unique,
        "held_out": held_out,
      }
    )
  return rows


def _flagged(sets: Sets, options: dict) -> dict[str, int]:
  """Held-out images among the FLAGGED images that look most extracted.

  By raw distance, and by the ratio, with as many members as held-out images.
  """
  pair = [sets["members"], sets["held_out"]]
  ways: dict[str, Callable[[Searched], np.ndarray]] = {
    "distance": lambda s: s.nearest.distances,
    "ratio": lambda s: rule.ratios(
      s.nearest,
      s.centres,
      alpha=options["alpha"],
      centring=options["centring"],
    ),
  }
  found = {}
  for way, read in ways.items():
    best = [_best(s, read(s)) for s in pair]
    order = np.argsort(np.concatenate(best), kind="stable")[:FLAGGED]
    found[way] = int(np.sum(order >= len(best[0])))
  return found


def _best(
  searched: Searched, values: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " m"]:
  """Of each image, the least value of the generations nearest to it."""
  best = np.full(len(searched.ids), np.inf)
  np.minimum.at(best, searched.nearest.rows, values)
  return best


def _membership(found: dict, root: epath.Path) -> dict[str, Any]:
  del root
  attacks = {
    name: _attack(attack)
    for name, attack in found.items()
    if not name.startswith("_") and attack.get("auc")
  }
  kept: dict[str, Any] = {"attacks": attacks}
  isolation = (found.get("_images") or {}).get("isolation") or {}
  gap = isolation.get("gap") or isolation.get("members")
  if gap:
    kept["isolation"] = gap["rho"]
  steps = (found.get("_by_step") or {}).get("steps")
  if steps:
    kept["by_step"] = [{"step": s["step"], "auc": s["auc"][0]} for s in steps]
  canaries = (found.get("_audits") or {}).get("canaries")
  if canaries:
    kept["canaries"] = {
      kind: {
        "most": canaries[kind]["most"],
        "mean": {k: v["mean"] for k, v in canaries[kind]["by_copies"].items()},
      }
      for kind in ("noise", "mislabelled")
      if kind in canaries
    }
  return kept


def _attack(found: dict) -> dict[str, Any]:
  kept = {"auc": found["auc"]} | {r: found.get(r) for r in RATES}
  kept["sweep"] = {
    str(e["t"]): [e["auc"][0], (e.get(RATES[0]) or [None])[0]]
    for e in found.get("sweep") or []
    if e.get("auc")
  }
  kept["by_draws"] = {
    str(e["draws"]): [e["auc"][0], (e.get(RATES[0]) or [None])[0]]
    for e in found.get("by_draws") or []
    if e.get("auc")
  }
  return kept


def _quality(found: dict, root: epath.Path) -> dict[str, Any]:
  del root
  held_out, training = found["to_held_out"], found.get("to_training") or {}
  return {
    "features": found["features"]["name"],
    "frechet": held_out.get("frechet"),
    "frechet_to_training": training.get("frechet"),
    "floor": (found.get("floor") or {}).get("frechet"),
    "precision": held_out["precision"],
    "recall": held_out["recall"],
  }


def _prompts(found: dict, root: epath.Path) -> dict[str, Any]:
  del root
  planted = found["captions"]["planted"]
  return {
    "planted": planted["flagged"][:2],
    "ordinary": planted["ordinary_flagged"][:2],
    "precision_at_recall": planted["precision_at_recall"],
    "by_copies": found["captions"]["by_copies"],
  }


def _inpaint(found: dict, root: epath.Path) -> dict[str, Any]:
  del root
  groups, test = found["groups"], found["tests"][0]
  return {name: groups[name]["top"] for name in groups} | {
    "nearer": test.get("nearer"),
    "targets": groups["seen"]["targets"],
  }


def _side(found: dict, root: epath.Path) -> dict[str, Any]:
  """By way of counting, of each pair: own - other, at scales chosen elsewhere.

  Raises ValueError where one model was attacked alone.
  """
  folders = side_pairs.folders(root)
  read = [workdir.read_json(f / "side" / "results.json") for f in folders]
  pairs = side_pairs.together([f.name for f in folders], read)["pairs"]
  return {
    way: {
      arm: {
        side: arms[arm]["chosen"][side]["values"]
        for side in ("own", "other", "net")
      }
      for arm in ("unguided", *found["methods"])
    }
    for way, arms in pairs.items()
    if "0." in way  # by rates of false matches
  }


def _measures(found: dict, root: epath.Path) -> dict[str, Any]:
  """By seed; and how often real images would count as copies (`_natural`)."""
  data = workdir.read_json(root / "report" / "results.json")["config"]["data"]
  images = diffmem.data.load(
    data["source"],
    crop=data["crop"],
    resize=data["resize"],
    filter=data["filter"],
    folder=data["data_dir"],
  ).images
  labels = {
    kind: {
      "copies": values["copies"],
      "members": [v[0] for v in values["members"]],
      "held_out": values["held_out"] and [v[0] for v in values["held_out"]],
    }
    for kind, values in found["labels"].items()
  }
  sizes = {
    str(size["n"]): {
      "copies": size["copies"],
      "steps": size["steps"],
      "curve": size["curve"],
      "natural": _natural(images, size["n"], found["ratio"]),
    }
    for size in found["sizes"]
  }
  return {"labels": labels, "sizes": sizes}


def _natural(
  images: UInt8[np.ndarray, "b h w c"], n: int, ratio: float
) -> float:
  """Share of other real images that count as copies of n of them, by chance.

  d_1 / d_2 below `ratio`, as for generations; n images drawn 20 times.
  """
  rng, found = np.random.default_rng(0), []
  for _ in range(20):
    order = rng.permutation(len(images))
    near = distances.nearest(images[order[n:]], images[order[:n]], 2).distances
    found.append(float(np.mean(near[:, 0] < ratio * near[:, 1])))
  return float(np.mean(found))


READERS: dict[str, Callable[[dict, epath.Path], dict[str, Any]]] = {
  "extraction": _extraction,
  "membership": _membership,
  "quality": _quality,
  "prompts": _prompts,
  "inpaint": _inpaint,
  "side": _side,
  "measures": _measures,
}

# SPDX-License-Identifier: Apache-2.0
"""SIDE on pairs of shadow models: what guidance adds, and the twin control.

Models 2j and 2j + 1 were trained on complementary halves of one pool. Both are
attacked, and both banks are scored against both halves: the own half, and the
other, on which the twin was trained. What the own half has beyond the other is
memorization; what both have is what guidance does to any image.

A value of a pair is the mean of its two models, which are not independent.
Pairs are trained apart, on other halves; they share the pool, so that Student's
interval of their mean is that of such models on these images, not of other
images. The scale of each method is chosen for a pair by the mean over the other
pairs, so that no scale is chosen on models on which it is reported; unguided
sampling has none to choose. A single pair takes the scale in the middle. Beside
it, values at every scale.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
from etils import epath

from diffmem import workdir
from diffmem.arrays import Float

SIDES = {"own": "members", "other": "held_out"}


def folders(root: epath.Path) -> list[epath.Path]:
  """Workdirs of the shadow models in <root>/shadows, by number.

  Raises ValueError where a twin is missing.
  """
  found = (
    [f for f in (root / "shadows").iterdir() if f.name.isdigit()]
    if (root / "shadows").exists()
    else []
  )
  found = sorted(found, key=lambda f: int(f.name))
  if [int(f.name) for f in found] != list(range(len(found))) or len(found) % 2:
    raise ValueError(
      f"{root / 'shadows'} holds the shadow models "
      f"{', '.join(f.name for f in found)}: side compares pairs of twins, 2j "
      "and 2j + 1; train those that are missing, or give shadow=I to attack one"
    )
  return found


def run(
  root: epath.Path, shadows: list[epath.Path], *, seed: int, side: dict
) -> None:
  """Writes <root>/side/results.json from those of the shadow models."""
  metas = [workdir.require(folder, "side") for folder in shadows]
  inputs = {
    folder.name: workdir.digest([meta["config"], meta["inputs"]])
    for folder, meta in zip(shadows, metas, strict=True)
  }
  with workdir.stage(
    root,
    "side",
    config={"seed": seed, "side": side},
    inputs=inputs,
    replace=True,
  ) as stage:
    if stage.finished:
      return
    results = [workdir.read_json(f / "side" / "results.json") for f in shadows]
    names = [folder.name for folder in shadows]
    workdir.write_json(stage.folder / "results.json", together(names, results))
    gallery = (shadows[0] / "side" / "gallery.npz").read_bytes()
    workdir.write_bytes(stage.folder / "gallery.npz", gallery)
    stage.record("models", len(shadows))


def together(names: list[str], results: list[dict]) -> dict[str, Any]:
  """All models, and the pairs among them, by every way of counting."""
  first = results[0]
  rates = list(first["unguided"]["members"]["rates"])
  bands = list(first["unguided"]["members"]["bands"])
  ways = {
    f"{name}, {rate}": _by_rate(unit, rate, key)
    for rate in rates
    for name, unit, key in (
      ("AMS", "generations", "ams"),
      ("UMS", "ids", "ums"),
    )
  } | {
    f"{name}, {band}": _by_band(band, key)
    for band in bands
    for name, key in (("AMS", "ams"), ("UMS", "ums"))
  }
  arms = {"unguided": ["0"]} | {
    m: [*first["scores"][m]] for m in first["methods"]
  }
  return {
    "models": names,
    "n": first["n"],
    "scales": first["scales"],
    "methods": first["methods"],
    "clusters": [result["clusters"] for result in results],
    "accuracy": first["accuracy"],
    "pairs": {
      way: _compared(_table(results, arms, read)) for way, read in ways.items()
    },
    "first": {"unguided": first["unguided"], "scores": first["scores"]},
  }


def _by_rate(unit: str, rate: str, key: str) -> Callable:
  return lambda scores, of: scores[of]["rates"][rate][unit][key]


def _by_band(band: str, key: str) -> Callable:
  return lambda scores, of: scores[of]["bands"][band]["cumulative"][key]


def _table(
  results: list[dict], arms: dict[str, list[str]], read: Callable
) -> dict[str, dict[str, Float[np.ndarray, "scales pairs"]]]:
  """{arm: {side: [scales pairs]}}, twins averaged."""
  found = {}
  for arm, scales in arms.items():
    found[arm] = {}
    for side, of in SIDES.items():
      rows = [
        [
          read(r["unguided"] if arm == "unguided" else r["scores"][arm][s], of)
          for r in results
        ]
        for s in scales
      ]
      table = np.array(rows, np.float64)
      found[arm][side] = table.reshape(len(scales), -1, 2).mean(axis=2)
  return found


def _compared(table: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
  """Values at every scale, at scales chosen on other pairs, and differences.

  What is compared, and chosen by, is own - other.
  """
  found: dict[str, Any] = {}
  chosen = {}
  for arm, sides in table.items():
    net = sides["own"] - sides["other"]
    places = choose(net)
    at = {
      side: values[places, np.arange(values.shape[1])]
      for side, values in (sides | {"net": net}).items()
    }
    chosen[arm] = at["net"]
    found[arm] = {
      "places": places,
      "chosen": {side: interval(values) for side, values in at.items()},
      "by_scale": {
        side: [interval(row) for row in values]
        for side, values in (sides | {"net": net}).items()
      },
    }
  for arm in table:
    found[arm]["gain"] = {
      base: interval(chosen[arm] - chosen[base])
      for base in ("unguided", "plain")
      if base in chosen and base != arm
    }
  return found


def choose(
  values: Float[np.ndarray, "scales pairs"],
) -> np.ndarray:
  """Of each pair, the row with the largest mean over the other pairs."""
  pairs = values.shape[1]
  if pairs == 1:
    return np.array([len(values) // 2])  # nobody to choose it on
  others = (values.sum(axis=1, keepdims=True) - values) / (pairs - 1)
  return np.argmax(others, axis=0)


def interval(
  values: Float[np.ndarray, " pairs"],
) -> dict[str, Any]:
  """{"mean", "interval", "values"}: Student's, 95%; None of a single pair."""
  mean, n = float(np.mean(values)), len(values)
  found = {"mean": mean, "interval": None, "values": values.tolist()}
  if n < 2:
    return found
  width = scipy.stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
  return found | {"interval": [mean - float(width), mean + float(width)]}

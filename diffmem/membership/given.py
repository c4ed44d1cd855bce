# SPDX-License-Identifier: Apache-2.0
"""Attacks on a model that was handed over, not trained in a workdir.

The times are fixed in advance, so nothing is chosen: every image given is
reported on. Writes <root>/membership: results.json, scores.csv and roc.npz,
with the keys of the membership stage.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffmem import stats, workdir
from diffmem.arrays import AnyArray, Float
from diffmem.denoiser import Denoiser
from diffmem.membership import check_attack, score


def check(attacks: Mapping[str, Mapping[str, Any]], t: int) -> None:
  """ValueError for attacks that cannot be run so."""
  for name in attacks:
    check_attack(name)
  if t < 0:
    raise ValueError(f"t = {t}, expected a time of the schedule, 0 or more")


def run(
  root: str | os.PathLike,
  denoiser: Denoiser,
  members: AnyArray,
  non_members: AnyArray,
  *,
  attacks: Mapping[str, Mapping[str, Any]],
  t: int,
  seed: int,
  cond: Sequence[AnyArray] | None = None,
  bootstrap: int = 1000,
  progress: bool = True,
) -> dict[str, Any]:
  """Scores both sets by each attack and compares them.

  Args:
    root: the workdir.
    denoiser: the model under attack.
    members, non_members: [n h w c], uint8, or floats in [-1, 1].
    attacks: {name: options}; `t` among them takes the place of the one below.
    t: the time, fixed in advance.
    seed: of noise and resampling.
    cond: labels of members and of non-members, where the model takes any.
    bootstrap: resamples behind each interval.
    progress: show the rate and the time left.

  Returns:
    The contents of results.json.

  Raises:
    ValueError: attacks or images that cannot be used.
    FloatingPointError: a value is not finite; names the images.
  """
  check(attacks, t)
  results, curves, columns = {}, {}, {}
  labels = (None, None) if cond is None else cond
  for name, options in attacks.items():
    given = {"t": t, "seed": seed, "progress": progress, **options}
    inside, outside = (
      score(name, denoiser, images, cond=which, **given)
      for images, which in zip((members, non_members), labels, strict=True)
    )
    results[name] = {
      **stats.summary(inside, outside, resamples=bootstrap, seed=seed),
      "t": given["t"],
      "members": len(inside),
      "non_members": len(outside),
    }
    curves[f"{name}_fpr"], curves[f"{name}_tpr"], _ = stats.roc(inside, outside)
    columns[name] = np.concatenate([inside, outside])
  _write(workdir.path(root) / "membership", results, curves, columns)
  return results


def _write(
  folder,
  results: dict[str, Any],
  curves: dict[str, Float[np.ndarray, " p"]],
  columns: dict[str, Float[np.ndarray, " n"]],
) -> None:
  """Members have the first ids; results.json last."""
  folder.mkdir(parents=True, exist_ok=True)
  first = next(iter(results.values()))
  inside, every = first["members"], first["members"] + first["non_members"]
  text = io.StringIO()
  rows = csv.writer(text, lineterminator="\n")
  rows.writerow(["id", "member", "copies", "used", *columns])
  for i in range(every):
    scores = [f"{values[i]:.9g}" for values in columns.values()]
    member = int(i < inside)
    rows.writerow([i, member, member, "report", *scores])
  workdir.write_bytes(folder / "scores.csv", text.getvalue().encode())
  packed = io.BytesIO()
  np.savez_compressed(packed, **curves)  # pyright: ignore[reportArgumentType]
  workdir.write_bytes(folder / "roc.npz", packed.getvalue())
  workdir.write_json(folder / "results.json", results)

# SPDX-License-Identifier: Apache-2.0
"""Extraction joined with membership: are extracted images high scorers?

Of the members, those that the extraction stage found among the generations
are compared with the rest by an attack's score: the AUC of extracted against
other members, and where extracted ones stand among all members.
"""

import csv
import io
from typing import Any

import numpy as np

from diffmem import stats, workdir
from diffmem.arrays import Bool, Float, Int

FEW = 5


def extracted(root) -> Int[np.ndarray, " k"] | None:
  """Ids in <root>/extraction/matches.csv; None where there is none."""
  folder = workdir.path(root) / "extraction"
  file, meta = folder / "matches.csv", folder / "meta.json"
  if not file.exists():
    return None
  if meta.exists() and workdir.read_json(meta)["status"] != "finished":
    return None
  rows = csv.DictReader(io.StringIO(file.read_text()))
  ids = {int(row["training_id"]) for row in rows}
  return np.array(sorted(ids), np.int64)


def join(
  scores: Float[np.ndarray, " n"],
  found: Bool[np.ndarray, " n"],
  copies: Int[np.ndarray, " n"],
  *,
  bootstrap: int,
  seed: int,
) -> dict[str, Any]:
  """How extracted members score among members.

  Args:
    scores: of members, finite.
    found: which were extracted.
    copies: how often each stands in training.
    bootstrap: resamples behind the interval.
    seed: of the resampling.

  Returns:
    extracted, members: how many; auc: of extracted against other members,
    which is the mean share of others that an extracted one outscores (None
    for fewer than FEW, which say nothing of any others); top: of the highest
    1%, 10% of scores, how many were extracted, of how many; and the same for
    members that stand in training once, as "once".
  """
  result = _join(scores, found, bootstrap, seed)
  once = copies == 1
  result["once"] = _join(scores[once], found[once], bootstrap, seed)
  return result


def _join(scores, found, bootstrap: int, seed: int) -> dict[str, Any]:
  k, n = int(found.sum()), len(found)
  result: dict[str, Any] = {"extracted": k, "members": n}
  result |= {"auc": None, "top": {}}
  if not 0 < k < n:
    return result
  if k >= FEW:
    result["auc"] = stats.interval(
      scores[found], scores[~found], resamples=bootstrap, seed=seed
    )
  order = np.argsort(-scores, kind="stable")
  top = {}
  for share in (0.01, 0.1):
    size = max(1, round(share * n))
    top[f"{share:g}"] = [int(found[order[:size]].sum()), size]
  return result | {"top": top}

# SPDX-License-Identifier: Apache-2.0
"""Which images an attack finds easiest and hardest, and what they are like.

Of the reported images: members that the attack is surest of and those that it
misses, non-members that it takes for members and those that it is surest are
none. With several target models an image's score is its mean over those that
it is in, and likewise over those that it is out of. Whether the score follows
how far an image lies from its nearest others (an outlier lies far, a
near-duplicate close) is told by Spearman's rank correlation.
"""

from typing import Any

import numpy as np
import scipy.stats

from diffmem import distances
from diffmem.arrays import Bool, Float, Int, UInt8

GROUPS = {
  "members_found": "members that the attack is surest of",
  "members_missed": "members that the attack takes for others",
  "non_members_flagged": "non-members that the attack takes for members",
  "non_members_cleared": "non-members that the attack is surest are none",
}


def sided(
  scores: Float[np.ndarray, "m n"],
  inside: Bool[np.ndarray, "m n"],
  report: Bool[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
  """Mean score of each image where it is a member, and where it is not.

  NaN where it never is, and for images that are not reported on.
  """
  found = []
  for side in (inside, ~inside):
    used = side & report[None]
    count = used.sum(0)
    total = np.where(used, scores, 0.0).sum(0)
    mean = np.full(len(report), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    found.append(mean)
  return found[0], found[1]


def extremes(
  member: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"], count: int
) -> dict[str, Int[np.ndarray, " s"]]:
  """Rows of at most `count` images of each of GROUPS, most extreme first."""

  def ranked(values: np.ndarray, sign: int) -> np.ndarray:
    there = np.flatnonzero(np.isfinite(values))
    order = np.argsort(sign * values[there], kind="stable")
    return there[order[: min(count, len(there))]]

  return {
    "members_found": ranked(member, -1),
    "members_missed": ranked(member, 1),
    "non_members_flagged": ranked(other, -1),
    "non_members_cleared": ranked(other, 1),
  }


def isolation(
  images: UInt8[np.ndarray, "n h w c"], neighbours: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
  """Of each image: mean RMS distance to its nearest others, and to the first.

  An image is no neighbour of itself; an exact copy of it is one.
  """
  k = min(neighbours, len(images) - 1)
  found = distances.nearest(images, images, k + 1)
  own = found.ids == np.arange(len(images))[:, None]
  own[~own.any(1), -1] = True  # behind copies of it: the last goes instead
  rest = found.distances[~own].reshape(len(images), k)
  return rest.mean(1), rest[:, 0]


def correlation(
  scores: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"]
) -> dict[str, float] | None:
  """Spearman's, with its p-value; None for fewer than 3, or constants."""
  there = np.isfinite(scores) & np.isfinite(values)
  a, b = scores[there], values[there]
  if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
    return None
  rho, p = np.asarray(scipy.stats.spearmanr(a, b))
  return {"rho": float(rho), "p": float(p), "images": len(a)}


def describe(
  attack: str,
  member: Float[np.ndarray, " n"],
  other: Float[np.ndarray, " n"],
  ids: Int[np.ndarray, " n"],
  copies: Int[np.ndarray, " n"],
  images: UInt8[np.ndarray, "n h w c"],
  *,
  count: int,
  neighbours: int,
  most: int,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """(numbers, arrays of the gallery).

  Args:
    attack: its name.
    member, other: from `sided`.
    ids, copies, images: of the pool.
    count: images of each group.
    neighbours: whose mean distance says how isolated an image is.
    most: a larger pool is not searched for neighbours.
  """
  groups = extremes(member, other, count)
  alone = first = np.full(len(ids), np.nan)
  searched = 2 < len(ids) <= most and neighbours > 0
  if searched:
    alone, first = isolation(images, neighbours)
  numbers: dict[str, Any] = {"attack": attack, "groups": {}}
  gallery = {}
  for name, rows in groups.items():
    scores = member if name.startswith("members") else other
    numbers["groups"][name] = {
      "ids": ids[rows],
      "scores": scores[rows],
      "copies": copies[rows],
      "isolation": alone[rows].tolist() if searched else None,
      "nearest": first[rows].tolist() if searched else None,
    }
    gallery[f"{name}_images"] = images[rows]
    gallery[f"{name}_ids"] = ids[rows]
    gallery[f"{name}_scores"] = scores[rows]
  numbers["isolation"] = {
    "neighbours": neighbours,
    "members": correlation(member, alone),
    "non_members": correlation(other, alone),
    "gap": correlation(member - other, alone),
    "skipped": None
    if searched
    else f"a pool of {len(ids)} images is not searched for neighbours",
  }
  numbers["copies"] = correlation(member, copies.astype(np.float64))
  return numbers, gallery

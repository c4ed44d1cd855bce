# SPDX-License-Identifier: Apache-2.0
"""Two workdirs on the same images: what both memorize, and what changed.

overlap  ids that both reproduce, among those in training of both, against
         chance: each reproduced as many ids as it did, at random among ids of
         the same numbers of copies (a hypergeometric number in each stratum)
matches  ids that only one of the two reproduces: McNemar's exact test (1947),
         the smaller of the two counts being binomial of probability 1/2
auc      difference of an attack's AUC on the same images, images resampled
         (members and others apart)
frechet  difference of Frechet distances to the same kind of images, with the
         standard errors of both as if they were independent
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from diffmem import stats
from diffmem.report.compare_read import Row


def overlap(one: Row, other: Row) -> dict[str, Any] | None:
  """What both reproduce; None where ids mean other images, or are not known."""
  known = _known(one, other)
  if known is None:
    return None
  common, copies = known
  first, second = (np.isin(common, list(r.matched)) for r in (one, other))
  strata = []
  for stratum in np.unique(copies, axis=0):
    here = (copies == stratum[None]).all(axis=1)
    counts = first[here].sum(), second[here].sum(), here.sum()
    strata.append((int(counts[0]), int(counts[1]), int(counts[2])))
  both = int((first & second).sum())
  log10_p, expected = stats.overlap_tail(both, strata)
  return {
    "common": len(common),
    "first": int(first.sum()),
    "second": int(second.sum()),
    "both": both,
    "expected": expected,
    "log10_p": log10_p,
  }


def _known(one: Row, other: Row) -> tuple[np.ndarray, np.ndarray] | None:
  """(ids in training of both, their copies in each [n 2])."""
  if one.data is None or one.data != other.data:
    return None
  for row in (one, other):
    if row.results.extraction is None or row.members is None:
      return None
    if row.results.extraction["unique"] != len(row.matched):
      return None  # the table of matches is not there
  assert one.members is not None
  assert other.members is not None
  common = np.intersect1d(one.members, other.members)
  if not len(common):
    return None
  copies = [
    r.copies[np.searchsorted(r.members, common)]
    if r.copies is not None and r.members is not None
    else np.ones(len(common), np.int64)
    for r in (one, other)
  ]
  return common, np.stack(copies, axis=1)


def changes(
  base: Row,
  other: Row,
  *,
  resamples: int,
  seed: int,
  with_copies: bool = False,
) -> dict[str, Any]:
  """What changed from `base` to `other`; None for what cannot be compared.

  with_copies: see `compare_read.alike_in_training`.
  """
  return {
    "from": base.name,
    "to": other.name,
    "matches": _matches(base, other),
    "auc": _auc(base, other, resamples, seed),
    "frechet": _frechet(base, other, with_copies),
  }


def _matches(base: Row, other: Row) -> dict[str, Any] | None:
  known = _known(base, other)
  if known is None:
    return None
  first, second = (np.isin(known[0], list(r.matched)) for r in (base, other))
  lost, gained = int((first & ~second).sum()), int((second & ~first).sum())
  n = lost + gained
  p = scipy.stats.binomtest(lost, n).pvalue if n else 1.0
  budgets = [(r.results.extraction or {})["generated"] for r in (base, other)]
  return {
    "common": len(known[0]),
    "base": int(first.sum()),
    "other": int(second.sum()),
    "lost": lost,
    "gained": gained,
    "p_value": float(p),
    "equal_budgets": budgets[0] == budgets[1],
  }


def _auc(
  base: Row, other: Row, resamples: int, seed: int
) -> dict[str, Any] | None:
  """Of the first attack that both have, on images that both attacked."""
  if base.data is None or base.data != other.data:
    return None
  for name, scores in base.scores.items():
    others = other.scores.get(name)
    if others is None:
      continue
    ids = [i for i in scores if i in others and scores[i][0] == others[i][0]]
    member = np.array([scores[i][0] for i in ids], bool)
    values = np.array([[scores[i][1], others[i][1]] for i in ids])
    if member.sum() < 2 or (~member).sum() < 2:
      continue
    ends = auc_change(
      values[member], values[~member], resamples=resamples, seed=seed
    )
    return {
      "attack": name,
      "change": ends,
      "members": int(member.sum()),
      "non_members": int((~member).sum()),
    }
  return None


def auc_change(
  members: np.ndarray, others: np.ndarray, *, resamples: int, seed: int
) -> list[float]:
  """[change, low, high] of the AUC from column 0 to column 1 of scores [n 2].

  Images are resampled with both of their scores.
  """
  rng = np.random.default_rng(seed)

  def change(a: np.ndarray, b: np.ndarray) -> float:
    one, two = (stats.auc(a[:, i], b[:, i]) for i in (0, 1))
    return two - one

  drawn = [
    change(
      members[rng.integers(len(members), size=len(members))],
      others[rng.integers(len(others), size=len(others))],
    )
    for _ in range(resamples)
  ]
  low, high = np.quantile(drawn, [0.025, 0.975])
  value = change(members, others)
  return [value, min(float(low), value), max(float(high), value)]


def _frechet(base: Row, other: Row, with_copies: bool) -> dict[str, Any] | None:
  """To the same set, of those that both have."""
  one, two = base.quality, other.quality
  if one is None or two is None or base.data is None:
    return None
  alike = one["features"] == two["features"] and one["images"] == two["images"]
  if base.data != other.data or not alike:
    return None
  for pair in (
    ("to_training",) if with_copies else ("to_held_out", "to_members")
  ):
    first, second = one[pair], two[pair]
    if not (first and second and first["frechet"] and second["frechet"]):
      continue
    value = second["frechet"][0] - first["frechet"][0]
    se = np.hypot(first["se"]["frechet"], second["se"]["frechet"])
    half = float(1.96 * se)
    return {"pair": pair, "change": [value, value - half, value + half]}
  return None


def different(change: Sequence[float] | None) -> bool | None:
  """Whether an interval of a change leaves out zero; None without one."""
  return None if change is None else not change[1] <= 0 <= change[2]

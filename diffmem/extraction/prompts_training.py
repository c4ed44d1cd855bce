# SPDX-License-Identifier: Apache-2.0
"""Ranked prompts against training images: which medoids are copies.

A medoid is correct <=> rms(medoid, x) <= delta for its nearest training image
x, in the plain distance (Carlini et al., arXiv 2301.13188, took 0.15 for
photographs of 512 x 512; images of 32 x 32 and less are as near to images of
no training set, which the count against held-out images shows). With
correct_j of the prompts ranked 1 .. r,

  precision(r) = sum_{j <= r} correct_j / r
  recall(r)    = sum_{j <= r} correct_j / R

where R is the number of tested prompts with any generation within delta of a
training image, if all generations were searched, and else of those that are
correct at any rank, which says how soon they come, not how many were missed.

x is (k, l2, delta)-eidetic with k = training images within duplicates_delta
of x, itself and copies included.
"""

import dataclasses

import numpy as np

from diffmem import distances, stats
from diffmem.arrays import Bool, Float, Int, UInt8

CURVE = 2000  # ranks of the curve that are kept


@dataclasses.dataclass(frozen=True)
class Matched:
  """Of each medoid its nearest training image.

  ids; distances; correct: within delta; duplicates: k of that image.
  """

  ids: Int[np.ndarray, " f"]
  distances: Float[np.ndarray, " f"]
  correct: Bool[np.ndarray, " f"]
  duplicates: Int[np.ndarray, " f"]


def match(
  medoids: UInt8[np.ndarray, "f h w c"],
  images: UInt8[np.ndarray, "m h w c"],
  ids: Int[np.ndarray, " m"],
  copies: Int[np.ndarray, " m"],
  *,
  delta: float,
  duplicates_delta: float,
) -> Matched:
  """Looks the medoids up among the training images.

  copies: how often each image is in the training set.
  """
  if not len(medoids):
    none = np.empty(0, np.int64)
    return Matched(none, np.empty(0), np.empty(0, bool), none)
  found = distances.nearest(medoids, images, 1)
  rows, near = found.ids[:, 0], found.distances[:, 0]
  unique, place = np.unique(rows, return_inverse=True)
  alike = distances.pairs(images[unique], images, threshold=duplicates_delta)
  k = np.bincount(alike.i, copies[alike.j], len(unique)).astype(np.int64)
  return Matched(ids[rows], near, near <= delta, k[place])


def summary(
  matched: Matched, *, delta: float, searched: int, extractable: int | None
) -> dict:
  """What results.json says of the ranking.

  searched: training images; extractable: R where it is known.
  """
  correct, n = int(matched.correct.sum()), len(matched.correct)
  right = np.cumsum(matched.correct)
  ranks = np.arange(1, n + 1)
  if n > CURVE:
    ranks = np.unique(np.geomspace(1, n, CURVE).round().astype(np.int64))
  total = correct if extractable is None else extractable
  hits = right[ranks - 1]
  ks, counts = np.unique(
    matched.duplicates[_first(matched)], return_counts=True
  )
  interval = stats.clopper_pearson(correct, n)
  return {
    "delta": delta,
    "searched": searched,
    "correct": correct,
    "unique": int(counts.sum()),
    "precision": [correct / n, *interval] if n else None,
    "extractable": extractable,
    "curve": {
      "rank": ranks,
      "precision": hits / ranks,
      "recall": hits / max(total, 1),
      "recall_of": "prompts correct at any rank"
      if extractable is None
      else "tested prompts with a generation within delta of a training image",
    },
    "eidetic": {str(k): int(c) for k, c in zip(ks, counts, strict=True)},
  }


def _first(matched: Matched) -> Int[np.ndarray, " u"]:
  """The best rank of each distinct training image that is correct."""
  right = np.flatnonzero(matched.correct)
  return right[np.unique(matched.ids[right], return_index=True)[1]]


def control(
  medoids: UInt8[np.ndarray, "f h w c"],
  members: UInt8[np.ndarray, "m h w c"],
  held_out: UInt8[np.ndarray, "o h w c"],
  *,
  delta: float,
  seed: int,
) -> dict:
  """The same look-up among as many images outside and inside training."""
  size = min(len(members), len(held_out))
  rng = np.random.default_rng(seed)
  found: dict = {"searched": size}
  for name, images in (("correct", held_out), ("members_correct", members)):
    part = np.sort(rng.permutation(len(images))[:size])
    near = np.empty(0)
    if len(medoids):
      near = distances.nearest(medoids, images[part], 1).distances[:, 0]
    found[name] = int(np.count_nonzero(near <= delta))
  found["rate"] = [
    found["correct"] / max(len(medoids), 1),
    *stats.clopper_pearson(found["correct"], len(medoids)),
  ]
  return found


def hit(
  prompt_ids: Int[np.ndarray, " n"],
  near: Float[np.ndarray, " n"],
  prompts: int,
  delta: float,
) -> Bool[np.ndarray, " p"]:
  """Of each prompt, whether any generation lies within delta.

  prompt_ids: of the generations, -1 for none; near: their distance to the
  nearest training image; prompts: how many there are.
  """
  found = np.zeros(prompts, bool)
  found[np.unique(prompt_ids[(near <= delta) & (prompt_ids >= 0)])] = True
  return found

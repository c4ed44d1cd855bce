# SPDX-License-Identifier: Apache-2.0
"""The ranking of prompts against what is known of the training captions.

Where a prompt is the caption of training images, it is known what there was to
find: a caption is *planted* if one of its images stands in training more than
once, image and caption together. With the planted prompts as positives, down
the ranking of the flagged ones (best first; no training image was used for it)

  precision(r) = planted among the first r / r
  recall(r)    = planted among the first r / planted among all tested,

and the same without any edge: the AUC of -tightest, planted against ordinary.

Many alike images of a prompt are not yet a training image. What a flagged
prompt's medoid is, by its nearest training image x at distance <= delta:

  repeated   x stands in training more than once;
  once       x stands there once, among `images` different ones of the caption
             (with one or two, a model has little else to draw);
  collapsed  there is no such x: the model draws one image of its own.

By kind (`sample.choosing`: duplicated, outliers, ordinary) the shares of
prompts that are flagged, correct and extractable compare at equal cost.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffmem import stats
from diffmem.arrays import Bool, Float, Int
from diffmem.data import Dataset, Split
from diffmem.extraction.prompts import Tested
from diffmem.extraction.prompts_training import Matched
from diffmem.sample.choosing import KINDS

FOUND = ("repeated", "once", "collapsed")
RECALLS = (0.5, 0.8, 1.0)
RESAMPLES = 1000


def summary(
  tested: Sequence[Tested],
  ranked: Sequence[Tested],
  matched: Matched,
  texts: Sequence[str],
  dataset: Dataset,
  split: Split,
  *,
  minimum: int,
  kinds: Mapping[str, str] | None,
  hit: Bool[np.ndarray, " p"] | None,
  seed: int,
) -> dict[str, Any] | None:
  """What results.json says; None where no prompt is a training caption.

  Args:
    tested: all prompts; ranked: the flagged ones, best first.
    matched: the nearest training image of each of `ranked`.
    texts: of the prompts, by id.
    dataset, split: the training images and captions.
    minimum: images that a prompt needs to be tested.
    kinds: of each chosen prompt's text, where prompts were chosen.
    hit: of each prompt, whether any generation lies within delta of a training
      image, where that was searched.
    seed: of resampling.
  """
  images, copies = of_captions(texts, dataset, split)
  if not images.any():
    return None
  enough = [t for t in tested if len(t.measured.rows) >= minimum]
  ids = np.array([t.measured.prompt for t in enough], np.int64)
  order = np.array([t.measured.prompt for t in ranked], np.int64)
  correct = dict(zip(order.tolist(), matched.correct.tolist(), strict=True))
  return {
    "tested": len(ids),
    "captions": int((images[ids] > 0).sum()),
    "images": _spread(images[ids][images[ids] > 0]),
    "planted": _planted(enough, order, copies, seed),
    "by_copies": _by_copies(ids, order, copies),
    "found": _found(order, matched, split),
    "kinds": None if kinds is None else _kinds(kinds, ids, texts, correct, hit),
  }


def of_captions(
  texts: Sequence[str], dataset: Dataset, split: Split
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
  """Of each prompt: its distinct training images, and the most copies of one.

  Zeros for a prompt that is no caption of a training image.
  """
  images = np.zeros(len(texts), np.int64)
  copies = np.zeros(len(texts), np.int64)
  if dataset.captions is None:
    return images, copies
  row_of = {text: row for row, text in enumerate(texts)}
  members = dataset.rows(split.members).tolist()
  for member, count in zip(members, split.copies.tolist(), strict=True):
    row = row_of.get(dataset.captions[member])
    if row is not None:
      images[row] += 1
      copies[row] = max(copies[row], count)
  return images, copies


def _planted(
  tested: Sequence[Tested],
  order: Int[np.ndarray, " f"],
  copies: Int[np.ndarray, " p"],
  seed: int,
) -> dict[str, Any] | None:
  """Precision and recall down the ranking; None where nothing is planted."""
  ids = np.array([t.measured.prompt for t in tested], np.int64)
  planted = copies[ids] > 1
  total, others = int(planted.sum()), int((~planted).sum())
  if not total:
    return None
  right = copies[order] > 1
  ranks = np.arange(1, len(order) + 1)
  precision, recall = np.cumsum(right) / ranks, np.cumsum(right) / total
  tightest = np.array([t.measured.tightest for t in tested])
  score = -np.where(np.isfinite(tightest), tightest, 2.0)  # beyond any distance
  area = None
  if others:
    area = stats.interval(
      score[planted], score[~planted], resamples=RESAMPLES, seed=seed
    )
  return {
    "flagged": _share(int(right.sum()), total),
    "ordinary_flagged": _share(int((~right).sum()), others),
    "precision": _share(int(right.sum()), len(order)),
    "precision_at_recall": {
      f"{level:g}": _first(precision, recall >= level) for level in RECALLS
    },
    "curve": {"rank": ranks, "precision": precision, "recall": recall},
    "auc": area,
  }


def _first(
  values: Float[np.ndarray, " f"], where: Bool[np.ndarray, " f"]
) -> float | None:
  """The value at the first place of these; None where there is none."""
  places = np.flatnonzero(where)
  return float(values[places[0]]) if len(places) else None


def _by_copies(
  ids: Int[np.ndarray, " t"],
  order: Int[np.ndarray, " f"],
  copies: Int[np.ndarray, " p"],
) -> dict[str, list[int]]:
  """By the most copies of an image of the caption: [flagged, tested]."""
  flagged = np.isin(ids, order)
  values = sorted({*copies[ids].tolist()} - {0}, reverse=True)
  return {
    str(value): [
      int((flagged & (copies[ids] == value)).sum()),
      int((copies[ids] == value).sum()),
    ]
    for value in values
  }


def _found(
  order: Int[np.ndarray, " f"], matched: Matched, split: Split
) -> dict[str, int]:
  """What the flagged prompts' medoids are."""
  rows = np.searchsorted(split.members, matched.ids)
  repeated = matched.correct & (split.copies[rows] > 1)
  once = matched.correct & ~repeated
  counts = (repeated.sum(), once.sum(), len(order) - matched.correct.sum())
  return dict(zip(FOUND, map(int, counts), strict=True))


def _kinds(
  kinds: Mapping[str, str],
  ids: Int[np.ndarray, " t"],
  texts: Sequence[str],
  correct: Mapping[int, bool],
  hit: Bool[np.ndarray, " p"] | None,
) -> dict[str, Any]:
  """Flagged, correct and extractable prompts of each kind."""
  found = {}
  for kind in KINDS:
    own = [int(i) for i in ids if kinds.get(texts[int(i)]) == kind]
    n = len(own)
    found[kind] = {
      "prompts": n,
      "flagged": _share(sum(i in correct for i in own), n),
      "correct": _share(sum(correct.get(i, False) for i in own), n),
      "extractable": None if hit is None else _share(int(hit[own].sum()), n),
    }
  return found


def _share(count: int, total: int) -> list[Any]:
  """[count, of how many, low, high] of the share."""
  return [count, total, *stats.clopper_pearson(count, total)]


def _spread(values: Int[np.ndarray, " v"]) -> list[float] | None:
  """[least, median, most]."""
  if not len(values):
    return None
  return np.quantile(values, [0, 0.5, 1]).tolist()

# SPDX-License-Identifier: Apache-2.0
"""A second distance beside pixels: copies that are not equal in pixels.

With v the vectors of `features` and d their distance (cosine or l2), a
generation g, mirrored or not, has at image i

  d(g, i) = min(d(v(g), v(i)), d(v(mirror g), v(i))),

its nearest image is the i with the least, and it is a second match of i where
that is at most a threshold. There is no ratio: what stands between a copy and
the image it was copied from is no longer noise. The threshold is set as that
of pixels is (`stats.calibrate`): on images in no training set, by the smallest
d of a generation whose nearest they are, at a stated rate for each image. It
stays below the median distance of such an image to its nearest other.

Results, beside those of pixels and under the same control: see `extract`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmem import distances, stats
from diffmem.arrays import Float, Int
from diffmem.extraction import attack
from diffmem.extraction.attack import Found
from diffmem.extraction.rule import Nearest, Searched

BLOCK = 2**16  # queries at a time


@dataclasses.dataclass(frozen=True)
class Second:
  """What was found by the second distance; `results` is its JSON.

  The ratio of a match is its distance over the threshold.
  """

  matches: Found
  false_matches: Found
  held_out_ids: Int[np.ndarray, " m"]
  results: dict[str, Any]


def search(queries: Sequence, references, metric: str) -> Nearest:
  """The nearest reference of each query.

  queries: float32 vectors [n d] of the images, and of their mirror images
  where those are searched too, arrays or stores, read block by block;
  references: [m d].
  """
  blocks = []
  for start in range(0, queries[0].shape[0], BLOCK):
    found = [
      distances.nearest_vectors(
        vectors[start : start + BLOCK], references, 1, metric=metric
      )
      for vectors in queries
    ]
    rows = np.stack([f.ids[:, 0] for f in found])
    values = np.stack([f.distances[:, 0] for f in found])
    best = np.lexsort((rows, values), axis=0)[:1]
    blocks.append(
      [np.take_along_axis(v, best, axis=0)[0] for v in (rows, values)]
    )
  rows, values = (np.concatenate(v) for v in zip(*blocks, strict=True))
  return Nearest(rows, values, values)


def searched(
  ids: Int[np.ndarray, " m"],
  queries: Sequence,
  references,
  metric: str,
  *,
  centred: bool = False,
) -> Searched:
  """A set as the queries see it.

  centred: whether its centres, the distance of each image to its nearest
  other, are computed; else they are 0.
  """
  centres = np.zeros(len(ids))
  if centred:
    # Among duplicates the image itself may come second, at the same distance.
    near = distances.nearest_vectors(references, references, 2, metric=metric)
    centres = near.distances[:, 1]
  return Searched(ids, search(queries, references, metric), centres)


def calibrate(
  calibration: Searched, false_match_rate: float, seed: int
) -> stats.Calibration:
  """The threshold that lets through `false_match_rate` of unseen ids."""
  best = np.full(len(calibration.ids), np.inf)
  nearest = calibration.nearest
  np.minimum.at(best, nearest.rows, nearest.distances)
  cap = float(np.median(calibration.centres)) or 1.0
  return stats.calibrate(best, false_match_rate, seed, cap=cap)


def matches(nearest: Nearest, threshold: float) -> Found:
  """The distinct references at most the threshold away from a query."""
  scale = threshold or 1.0
  return attack.best_of_each(
    nearest, nearest.distances / scale, nearest.distances <= threshold
  )


def extract(
  members: Searched,
  held_out: Searched,
  calibration: Searched,
  real: Nearest,
  *,
  copies: Int[np.ndarray, " m"],
  pixel_matches: Int[np.ndarray, " u"],
  false_match_rate: float,
  seed: int,
  control_members: Searched | None = None,
) -> Second:
  """Searches members and held-out images by one calibrated threshold.

  Args:
    members, held_out, calibration: as the generations see them; no more
      held-out images than members.
    real: real held-out images as queries among the members.
    copies: how often each member is in the training set.
    pixel_matches: ids of the members that the rule on pixels matched.
    false_match_rate: share of unseen ids that the threshold is to let through.
    seed: of the calibration's resampling.
    control_members: as many members as held_out, where members has more.
  """
  calibrated = calibrate(calibration, false_match_rate, seed)
  threshold = calibrated.delta
  found = matches(members.nearest, threshold)
  false = matches(held_out.nearest, threshold)
  control = found
  if control_members is not None:
    control = matches(control_members.nearest, threshold)
  ids = members.ids[found.rows]
  also = int(np.isin(ids, pixel_matches).sum())
  results = {
    "threshold": threshold,
    "threshold_interval": calibrated.interval,
    "false_match_rate": calibrated.rate,
    "calibration": {
      "searched": calibrated.searched,
      "finite": calibrated.finite,
      "method": calibrated.method,
      "expected_held_out": calibrated.expected,
    },
    **attack.counted(found, members),
    "planted": attack.planted(found, copies),
    "held_out": attack.counted(false, held_out)
    | {
      "real_matches": int((real.distances <= threshold).sum()),
      "real_searched": len(real.rows),
    },
    "control": {
      "searched": len(held_out.ids),
      "members": len(control),
      "held_out": len(false),
    },
    "also_pixels": also,
    "only_second": len(found) - also,
    "only_pixels": len(pixel_matches) - also,
  }
  return Second(found, false, held_out.ids, results)


def subset(
  whole: Float[np.ndarray, "m d"],
  ids: Int[np.ndarray, " m"],
  part: Int[np.ndarray, " p"],
) -> Float[np.ndarray, "p d"]:
  """The vectors of some of the ascending ids of a set."""
  return whole[np.searchsorted(ids, part)]

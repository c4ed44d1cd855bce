# SPDX-License-Identifier: Apache-2.0
"""Batches as a pure function of (seed, step), so that any run can resume.

Training sees an endless row of epochs, each a fresh permutation of all rows
(a planted image has several). Batch `step` is positions
step * batch .. (step + 1) * batch - 1 of it, and may span epochs.
"""

import functools

import numpy as np
from jaxtyping import Int, UInt8

from diffmem.data import augment
from diffmem.data.streams import permutation


class Batches:
  """Random batches of images; `at(step)` in any order, at any time."""

  def __init__(
    self,
    images: UInt8[np.ndarray, "m h w c"],
    labels: Int[np.ndarray, " m"] | None,
    rows: Int[np.ndarray, " rows"],
    *,
    batch: int,
    seed: int,
    flip: bool,
    shift: int = 0,
  ):
    """Prepares; nothing is copied.

    Args:
      images: the distinct images.
      labels: their classes, or None.
      rows: positions in `images`, one that stands several times is seen as
        often in each epoch.
      batch: how many images a step takes; more than there are rows is fine.
      seed: of the order, the flips and the moves.
      flip: whether to mirror each image left to right with probability 1/2.
      shift: pixels that each image is moved by at most; see `augment`.
    """
    check(images, labels, rows, batch)
    augment.check(images.shape[1:], shift)
    self.images = images
    self.labels = labels
    self.rows = rows
    self.batch = batch
    self.seed = seed
    self.flip = flip
    self.shift = shift
    self._epoch = functools.lru_cache(maxsize=2)(self._permuted)

  def at(self, step: int) -> dict[str, np.ndarray]:
    """The batch of one step.

    Returns:
      image uint8 [batch h w c], row int64 [batch] (positions in `images`),
      and label int32 [batch] where there are labels.
    """
    if step < 0:
      raise ValueError(f"step={step}: expected 0 or more")
    row = self._take(step * self.batch)
    image = augment.augment(
      self.images[row],
      flip=self.flip,
      shift=self.shift,
      seed=self.seed,
      step=step,
      slots=np.arange(self.batch),
      count=self.batch,
    )
    found = {"image": image, "row": row}
    if self.labels is not None:
      found["label"] = self.labels[row].astype(np.int32)
    return found

  def _take(self, start: int) -> Int[np.ndarray, " b"]:
    """Rows at positions start..start+batch-1 of the endless row of epochs."""
    count = len(self.rows)
    positions = np.arange(start, start + self.batch)
    pieces = [
      self._epoch(epoch)[positions[positions // count == epoch] % count]
      for epoch in range(positions[0] // count, positions[-1] // count + 1)
    ]
    return np.concatenate(pieces)

  def _permuted(self, epoch: int) -> Int[np.ndarray, " rows"]:
    return self.rows[permutation(len(self.rows), self.seed, "epoch", epoch)]


def check(
  images: UInt8[np.ndarray, "m h w c"],
  labels: Int[np.ndarray, " m"] | None,
  rows: Int[np.ndarray, " rows"],
  batch: int,
) -> None:
  """ValueError unless batches of these rows can be drawn."""
  if batch < 1:
    raise ValueError(f"batch={batch}: expected 1 or more")
  if not len(rows):
    raise ValueError("no rows to train on: the split has no members")
  if rows.min() < 0 or rows.max() >= len(images):
    raise ValueError(
      f"rows reach {rows.min()} to {rows.max()}, but there are "
      f"{len(images)} images"
    )
  if labels is not None and len(labels) != len(images):
    raise ValueError(f"{len(labels)} labels for {len(images)} images")

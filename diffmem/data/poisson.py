# SPDX-License-Identifier: Apache-2.0
"""Poisson batches: every row is in every step's batch by a coin of its own.

  row r is in batch t  iff  u(seed, t, r) < q,   q = batch / rows

u uniform, independent over t and r: what accountants of subsampled noise
assume (Abadi et al. 2016, arXiv:1607.00133, section 3.1); an epoch of fixed
batches is not that. The size of a batch is random with mean `batch`, and may
be 0. It comes in micro-batches of one fixed shape, the last one padded with
rows that "real" says not to count.
"""

import numpy as np
from jaxtyping import Int, UInt8

from diffmem.data import augment
from diffmem.data.batches import check
from diffmem.data.streams import words


class PoissonBatches:
  """Random batches in micro-batches; `at(step)` in any order."""

  def __init__(
    self,
    images: UInt8[np.ndarray, "m h w c"],
    labels: Int[np.ndarray, " m"] | None,
    rows: Int[np.ndarray, " rows"],
    *,
    batch: int,
    microbatch: int,
    seed: int,
    flip: bool,
    shift: int = 0,
  ):
    """Prepares; nothing is copied.

    Args:
      images, labels, seed, flip, shift: see `Batches`.
      rows: positions in `images`; each place in it has a coin of its own.
      batch: mean size of a batch, at most the number of rows.
      microbatch: images in each part of a batch.

    Raises:
      ValueError: as `Batches`, and where batch or microbatch cannot be.
    """
    check(images, labels, rows, batch)
    augment.check(images.shape[1:], shift)
    if batch > len(rows):
      raise ValueError(
        f"batch={batch} is more than the {len(rows)} rows of training: a row "
        "is in a Poisson batch once at most; lower it"
      )
    if microbatch < 1:
      raise ValueError(f"microbatch={microbatch}: expected 1 or more")
    self.images = images
    self.labels = labels
    self.rows = rows
    self.rate = batch / len(rows)
    self.microbatch = microbatch
    self.seed = seed
    self.flip = flip
    self.shift = shift

  def slots(self, step: int) -> Int[np.ndarray, " b"]:
    """Places in `rows` that are in the batch of one step, ascending."""
    if step < 0:
      raise ValueError(f"step={step}: expected 0 or more")
    drawn = words(len(self.rows), self.seed, "poisson", step)
    # 53 bits, as floats hold them: compared exactly.
    return np.flatnonzero((drawn >> np.uint64(11)) * 2.0**-53 < self.rate)

  def at(self, step: int) -> list[dict[str, np.ndarray]]:
    """The batch of one step, in one part or more of `microbatch` images.

    Returns:
      of each part image uint8 [m h w c], row int64 [m] (positions in
      `images`), slot int32 [m] (places in `rows`), real bool [m], and label
      int32 [m] where there are labels.
    """
    slots = self.slots(step)
    size = self.microbatch
    parts = max(1, -(-len(slots) // size))
    real = np.arange(parts * size) < len(slots)
    slots = np.concatenate([slots, np.zeros(sum(~real), np.int64)])
    row = self.rows[slots]
    image = augment.augment(
      self.images[row],
      flip=self.flip,
      shift=self.shift,
      seed=self.seed,
      step=step,
      slots=slots,
      count=len(self.rows),
    )
    found = {"image": image, "row": row, "real": real}
    found["slot"] = slots.astype(np.int32)
    if self.labels is not None:
      found["label"] = self.labels[row].astype(np.int32)
    return [
      {key: x[i * size : (i + 1) * size] for key, x in found.items()}
      for i in range(parts)
    ]

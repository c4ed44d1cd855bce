# SPDX-License-Identifier: Apache-2.0
"""Poisson batches: coins that are fair and independent, padding, refusals."""

import numpy as np
import pytest
import scipy.stats

from diffmem.data import PoissonBatches

RNG = np.random.default_rng(4)
PIXELS = RNG.integers(0, 256, (9, 2, 4, 3), dtype=np.uint8)
LABELS = np.arange(9) * 10
ROWS = np.repeat(np.arange(9), [1, 1, 1, 1, 1, 1, 1, 3, 20])


def build(rows=ROWS, *, batch=6, microbatch=4, seed=0, **options):
  options = {"flip": False} | options
  return PoissonBatches(
    PIXELS, LABELS, rows, batch=batch, microbatch=microbatch, seed=seed,
    **options,
  )  # fmt: skip


def test_every_row_has_a_coin_of_its_own_in_every_step():
  batches, steps = build(), 4000
  inside = np.zeros((steps, len(ROWS)), bool)
  for step in range(steps):
    inside[step, batches.slots(step)] = True
  rate = 6 / len(ROWS)
  # Each row's count is binomial: 5 standard deviations.
  off = np.abs(inside.mean(axis=0) - rate).max()
  assert off < 5 * np.sqrt(rate * (1 - rate) / steps)
  # Sizes are binomial too, which batches of a fixed size are not.
  sizes = np.bincount(inside.sum(axis=1), minlength=len(ROWS) + 1)
  law = scipy.stats.binom(len(ROWS), rate).pmf(np.arange(len(ROWS) + 1))
  few = law * steps < 10
  p = scipy.stats.chisquare(
    [*sizes[~few], sizes[few].sum()],
    steps * np.array([*law[~few], law[few].sum()]),
  ).pvalue
  assert p > 1e-4
  # Rows do not come together, nor does a row in the next step.
  apart = np.corrcoef(inside.T)[np.triu_indices(len(ROWS), 1)]
  assert np.abs(apart).max() < 6 / np.sqrt(steps)
  again = np.corrcoef(inside[:-1].ravel(), inside[1:].ravel())[0, 1]
  assert abs(again) < 5 / np.sqrt(inside.size)


def test_parts_hold_the_batch_and_padding_does_not_count():
  batches = build()
  for step in range(40):
    parts, slots = batches.at(step), batches.slots(step)
    assert {len(p["image"]) for p in parts} == {4}
    assert len(parts) == max(1, -(-len(slots) // 4))
    real = np.concatenate([p["real"] for p in parts])
    slot = np.concatenate([p["slot"] for p in parts])
    np.testing.assert_array_equal(slot[real], slots)
    for part in parts:
      np.testing.assert_array_equal(part["row"], ROWS[part["slot"]])
      np.testing.assert_array_equal(part["image"], PIXELS[part["row"]])
      np.testing.assert_array_equal(part["label"], LABELS[part["row"]])


def test_a_batch_may_be_empty():
  (part,) = next(
    parts
    for step in range(200)
    if not len(build(batch=1).slots(step))
    for parts in [build(batch=1).at(step)]
  )
  assert not part["real"].any()
  assert part["image"].shape == (4, 2, 4, 3)


@pytest.mark.parametrize("microbatch", [1, 3, 16])
def test_a_row_is_seen_alike_in_parts_of_any_size(microbatch):
  options = {"flip": True, "shift": 1}

  def images(size):
    parts = build(microbatch=size, **options).at(5)
    return np.concatenate([p["image"][p["real"]] for p in parts])

  np.testing.assert_array_equal(images(4), images(microbatch))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batch": 31}, "batch=31 is more than the 30 rows"),
    ({"batch": 0}, "batch=0: expected 1 or more"),
    ({"microbatch": 0}, "microbatch=0: expected 1 or more"),
    ({"rows": np.zeros(0, np.int64)}, "no rows to train on"),
  ],
)
def test_what_cannot_be_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    build(**options)

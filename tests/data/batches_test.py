# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.data import Batches

RNG = np.random.default_rng(4)
PIXELS = RNG.integers(0, 256, (9, 2, 4, 3), dtype=np.uint8)
LABELS = np.arange(9) * 10


def build(rows, *, batch=4, seed=0, flip=False, labels=LABELS):
  rows = np.asarray(rows, np.int64)
  return Batches(PIXELS, labels, rows, batch=batch, seed=seed, flip=flip)


@settings(max_examples=40, deadline=None)
@given(
  rows=st.lists(st.integers(0, 8), min_size=1, max_size=12),
  batch=st.integers(1, 30),
  seed=st.integers(0, 2**63),
)
def test_every_epoch_has_every_row_with_its_copies(rows, batch, seed):
  batches = build(rows, batch=batch, seed=seed)
  epochs = 3
  steps = -(-epochs * len(rows) // batch)
  seen = np.concatenate([batches.at(step)["row"] for step in range(steps)])
  for epoch in range(epochs):
    part = seen[epoch * len(rows) : (epoch + 1) * len(rows)]
    assert sorted(part.tolist()) == sorted(rows)


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_a_step_does_not_depend_on_those_before(steps):
  used = build(range(9), flip=True)
  for step in steps:
    found, fresh = used.at(step), build(range(9), flip=True).at(step)
    assert found.keys() == fresh.keys() == {"image", "label", "row"}
    for key in found:
      np.testing.assert_array_equal(found[key], fresh[key])


def test_images_and_labels_belong_to_their_rows():
  found = build([3, 3, 5, 7]).at(0)
  np.testing.assert_array_equal(found["image"], PIXELS[found["row"]])
  np.testing.assert_array_equal(found["label"], LABELS[found["row"]])
  assert found["label"].dtype == np.int32
  assert found["image"].dtype == np.uint8
  assert "label" not in build([3], labels=None).at(0)


def test_epochs_and_seeds_differ():
  def order(seed, step):
    return tuple(build(range(9), batch=9, seed=seed).at(step)["row"])

  assert len({order(seed, step) for seed in (0, 1) for step in range(4)}) == 8


def test_flips_mirror_about_half_and_leave_the_source_alone():
  before = PIXELS.copy()
  batches = build(range(9), batch=32, flip=True)
  plain = build(range(9), batch=32)
  patterns = []
  for step in range(30):
    image, same = batches.at(step)["image"], plain.at(step)["image"]
    mirrored = (image == same[:, :, ::-1]).all((1, 2, 3))
    assert np.all(mirrored | (image == same).all((1, 2, 3)))
    patterns.append(tuple(mirrored.tolist()))
  assert 400 < np.sum(patterns) < 560
  assert len(set(patterns)) == 30, "each step throws its own coins"
  np.testing.assert_array_equal(PIXELS, before)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"rows": [0], "batch": 0}, "batch=0: expected 1 or more"),
    ({"rows": []}, "no rows to train on"),
    ({"rows": [0, 9]}, "rows reach 0 to 9, but there are 9 images"),
    ({"rows": [-1]}, "rows reach -1 to -1"),
  ],
)
def test_impossible_batches_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    build(**arguments)


def test_negative_steps_are_refused():
  with pytest.raises(ValueError, match="step=-1"):
    build([0]).at(-1)

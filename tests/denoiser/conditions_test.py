# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest

from diffmem.denoiser import Denoiser, conditions
from diffmem.diffusion import schedules


def model(null, **more):
  return Denoiser(
    eps=lambda x, t, cond: x,
    schedule=schedules.linear(10),
    shape=(2, 2, 1),
    null_cond=null,
    **more,
  )


TEXT = {"tokens": np.ones((3, 4, 2)), "mask": np.ones((3, 4), bool)}
NULL = {"tokens": np.zeros((4, 2)), "mask": np.zeros(4, bool)}


def test_labels_and_trees_become_plain_arrays():
  labels = conditions.check(model(5, num_classes=5), [0, 5, 2])
  assert (labels.dtype, labels.tolist()) == (np.int32, [0, 5, 2])
  text = conditions.check(model(NULL), TEXT, 3)
  assert {k: str(v.dtype) for k, v in text.items()} == {
    "tokens": "float32",
    "mask": "bool",
  }
  assert conditions.count(text) == 3
  assert conditions.take(text, [2, 0])["tokens"].shape == (2, 4, 2)


@pytest.mark.parametrize(
  ("cond", "n", "message"),
  [
    (None, 3, "cond is None"),
    ([0, 1], 3, "2 labels for 3 images"),
    ([0, 6], 2, r"labels run from 0 to 6, the model has classes 0\.\.4"),
    (TEXT, 2, "arrays of 3 rows, expected 2"),
    ({**TEXT, "mask": TEXT["mask"][:2]}, None, "arrays of 2 and 3 rows"),
    (3, None, "arrays of 0 rows"),
  ],
)
def test_what_cannot_be_is_named(cond, n, message):
  with pytest.raises(ValueError, match=message):
    conditions.check(model(5, num_classes=5), cond, n)


def test_the_null_condition_repeated():
  whole = conditions.repeat(conditions.null(model(NULL)), 2)
  inside = jax.jit(conditions.expand)(NULL, conditions.take(TEXT, [0, 1]))
  for got in (whole, inside):
    assert got["tokens"].shape == (2, 4, 2)
    assert got["mask"].dtype == bool
    assert not np.any(got["mask"])
  assert conditions.null(model(None)) is None
  assert conditions.repeat(None, 2) is None

# SPDX-License-Identifier: Apache-2.0
"""Exposure: by hand, of noise, and under a model that kept its canaries."""

import inspect

import numpy as np
import pytest
from sklearn import datasets

from diffmem import arrays, data
from diffmem.data import canaries as recipes
from diffmem.data.dataset import Dataset
from diffmem.denoiser import finite_set
from diffmem.diffusion import schedules
from diffmem.membership import canaries


def test_exposure_by_hand():
  reference = np.arange(8.0)
  losses = np.array([-1.0, 0.5, 0.0, 3.0, 6.5, 9.0])
  expected = 3 - np.log2([1, 2, 2, 5, 8, 8])
  np.testing.assert_allclose(canaries.exposure(losses, reference), expected)
  assert canaries.exposure(np.zeros(1), np.ones(1024))[0] == 10


def test_exposure_of_noise():
  rng = np.random.default_rng(0)
  got = canaries.exposure(rng.normal(size=4000), rng.normal(size=1024))
  for x in (1, 3, 5):
    assert np.mean(got >= x) == pytest.approx(2.0**-x, rel=0.35)
  found = canaries.summary(got[:30], 1024)
  assert found["canaries"] == 30
  assert 0.001 < found["p"] < 0.999
  best = canaries.summary(np.array([10.0, 10.0, 3.0]), 1024)
  assert best["at_most"] == 2
  assert best["mean"] == pytest.approx(23 / 3)
  assert best["values"] == [10.0, 10.0, 3.0]
  assert best["p"] < 1e-4


def test_a_model_that_kept_them():
  """The optimal denoiser of all it was trained on, by class."""
  pixels, labels = datasets.load_digits(return_X_y=True)
  pixels = np.round(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
  dataset = Dataset(
    pixels[:150],
    np.arange(150),
    labels=labels[:150].astype(np.int64),
    info={"class_names": list("0123456789")},
  )
  split = data.split(dataset, seed=0, members=60, held_out=30, calibration=60)
  split = recipes.insert(
    dataset,
    split,
    seed=3,
    noise=((0, 20), (1, 3), (4, 2)),
    mislabelled=((0, 10), (2, 3)),
    reference=64,
  )
  larger, rows = recipes.training(dataset, split)
  rows = np.unique(rows)
  model = finite_set(
    np.asarray(arrays.from_uint8(larger.images[rows])),
    schedules.linear(),
    labels=larger.labels[rows],
  )
  options = dict(t=100, draws=2, seed=0, batch=64, progress=False)
  found = canaries.measure(model, dataset, split, **options)
  assert list(found) == ["noise", "mislabelled"]
  assert found["noise"]["reference"] == 64
  assert found["noise"]["most"] == 6
  noise, wrong = (found[k]["by_copies"] for k in found)
  assert list(noise) == ["0", "1", "4"]
  for kept, count in ((noise["1"], 3), (noise["4"], 2), (wrong["2"], 3)):
    assert kept["at_most"] == kept["canaries"] == count
    assert kept["mean"] == 6
    assert kept["p"] < 1e-2
  for never, count in ((noise["0"], 20), (wrong["0"], 10)):
    assert never["canaries"] == count
    assert never["mean"] < 3
    assert never["p"] > 1e-3
  plain = data.split(dataset, seed=0, members=60, held_out=30, calibration=60)
  assert canaries.measure(model, dataset, plain, **options) is None
  bare = finite_set(
    np.asarray(arrays.from_uint8(dataset.images)), schedules.linear()
  )
  with pytest.raises(ValueError, match="mislabelled is for a model with class"):
    canaries.measure(bare, dataset, split, **options)


def test_bad_input():
  exposure = inspect.unwrap(canaries.exposure)
  with pytest.raises(ValueError, match="0 reference losses, 0 losses are NaN"):
    exposure(np.zeros(2), np.zeros(0))
  with pytest.raises(ValueError, match="3 reference losses, 1 losses are NaN"):
    exposure(np.array([np.nan]), np.zeros(3))

# SPDX-License-Identifier: Apache-2.0
"""Canaries: what they are, who is given them, and what they leave alone."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from diffmem import data
from diffmem.data import canaries, prepared, splits
from diffmem.data.dataset import Dataset

RNG = np.random.default_rng(0)
DATASET = Dataset(
  RNG.integers(0, 256, (90, 3, 3, 1), np.uint8),
  np.arange(90) * 2,
  labels=np.arange(90) % 5,
  info={"class_names": list("abcde")},
)
RECIPE = {
  "noise": ((0, 3), (1, 2), (4, 2)),
  "mislabelled": ((2, 4),),
  "reference": 50,
}


def split(**options):
  sizes = {"members": 30, "held_out": 30, "calibration": 30}
  return data.split(DATASET, seed=0, **sizes | options)


def inserted(plain=None, dataset=DATASET, **change):
  plain = split() if plain is None else plain
  return canaries.insert(dataset, plain, seed=1, **RECIPE | change)


def test_what_they_are():
  plain, whole = split(), inserted()
  found = canaries.make(DATASET, whole)
  assert len(found.images) == 7 + 50 + 4 + 50
  np.testing.assert_array_equal(
    found.kinds, np.repeat(["noise", "mislabelled"], [57, 54])
  )
  np.testing.assert_array_equal(
    found.copies, [0, 0, 0, 1, 1, 4, 4, *[0] * 50, *[2] * 4, *[0] * 50]
  )
  np.testing.assert_array_equal(found.reference.nonzero()[0][[0, 49]], [7, 56])
  assert found.reference.sum() == 100
  assert found.ids.min() > DATASET.ids.max()
  assert len(set(found.ids.tolist())) == 111
  # Noise: uniform bytes, labels of all classes, none like another.
  noise = found.kinds == "noise"
  pixels = found.images[noise]
  assert scipy.stats.kstest(pixels.ravel() / 255, "uniform").pvalue > 0.01
  assert len(np.unique(pixels.reshape(57, -1), axis=0)) == 57
  assert set(found.labels[noise]) == set(range(5))
  # Mislabelled: the right pixels, never the right label.
  whose = {p.tobytes(): i for i, p in enumerate(DATASET.images)}
  rows = np.array([whose[p.tobytes()] for p in found.images[~noise]])
  assert np.all(found.labels[~noise] != DATASET.labels[rows])
  assert found.labels.min() >= 0
  assert found.labels.max() <= 4
  borrowed = DATASET.ids[rows[:4]]
  assert set(borrowed) <= set(plain.calibration)
  assert set(DATASET.ids[rows[4:]]) <= set(whole.calibration)
  np.testing.assert_array_equal(
    whole.calibration, np.setdiff1d(plain.calibration, borrowed)
  )
  pairs = set(zip(rows[4:], found.labels[~noise][4:], strict=True))
  assert len(pairs) == 50


def test_the_rest_of_the_split_stays():
  plain, whole = split(planted=((3, 2),)), inserted(split(planted=((3, 2),)))
  for name in ("members", "held_out", "copies", "pool"):
    np.testing.assert_array_equal(getattr(plain, name), getattr(whole, name))
  assert whole.info["calibration"] == 26
  assert whole.digest == whole.info["sha256"]
  only_noise = inserted(mislabelled=())
  assert only_noise.digest == split().digest


def test_a_canary_is_a_function_of_seed_and_number():
  first = canaries.make(DATASET, inserted(mislabelled=()))
  more = canaries.make(
    DATASET, inserted(mislabelled=(), noise=((7, 5),), reference=80)
  )
  np.testing.assert_array_equal(first.images, more.images[:57])
  other = canaries.insert(DATASET, split(), seed=2, **RECIPE)
  assert canaries.make(DATASET, other).digest != first.digest
  assert canaries.make(DATASET, split()) is None


def test_training_sees_each_as_often_as_asked():
  plain, whole = split(planted=((3, 2),)), inserted(split(planted=((3, 2),)))
  dataset, rows = canaries.training(DATASET, whole)
  found = canaries.make(DATASET, whole)
  seen, often = np.unique(rows, return_counts=True)
  ids = dataset.ids[seen]
  expected = dict(zip(plain.members, plain.copies, strict=True))
  inside = found.copies > 0
  expected |= dict(zip(found.ids[inside], found.copies[inside], strict=True))
  assert dict(zip(ids, often, strict=True)) == expected
  np.testing.assert_array_equal(
    dataset.take(found.ids[inside]), found.images[inside]
  )
  rows_of = dataset.rows(found.ids[inside])
  np.testing.assert_array_equal(dataset.labels[rows_of], found.labels[inside])
  assert canaries.trained_on(whole) == len(rows) == 34 + 2 + 8 + 8
  same, rows = canaries.training(DATASET, plain)
  assert same is DATASET
  np.testing.assert_array_equal(DATASET.ids[rows], plain.training_rows)
  bare = dataclasses.replace(
    DATASET, labels=None, captions=("x",) * 90, names=("n",) * 90
  )
  dataset, _ = canaries.training(bare, inserted(dataset=bare, mislabelled=()))
  assert dataset.labels is None
  assert len(dataset.captions) == len(dataset.names) == 94


def test_shadow_models_get_none_but_lose_the_same_calibration_images():
  of_shadow = inserted(split(shadows=2, shadow=1))
  main = inserted(split(shadows=2))
  assert canaries.make(DATASET, of_shadow) is None
  np.testing.assert_array_equal(of_shadow.calibration, main.calibration)
  again = splits.of_shadow(main, 1)
  assert canaries.make(DATASET, again) is None
  assert again.digest == of_shadow.digest


def test_a_prepared_folder_holds_them(tmp_path):
  options = dict(
    seed=0,
    source="digits",
    crop="none",
    resize=None,
    filter="lanczos",
    data_dir=None,
    split={"members": 20, "held_out": 20, "calibration": 20},
  )
  recipe = RECIPE | {"reference": 60}
  dataset, made = prepared.prepare(tmp_path, canaries=recipe, **options)
  again, found = prepared.read(tmp_path)
  one, two = canaries.make(dataset, made), canaries.make(again, found)
  assert one.digest == two.digest
  np.testing.assert_array_equal(one.images, two.images)
  prepared.prepare(tmp_path, canaries=recipe, **options)
  for other in (None, recipe | {"noise": ((5, 1),)}):
    with pytest.raises(ValueError, match=r"another split .*use another --work"):
      prepared.prepare(tmp_path, canaries=other, **options)


def test_impossible_recipes():
  cases = (
    ({"noise": ((-1, 2),)}, r"canaries.noise holds \(-1, 2\): expected"),
    ({"mislabelled": ((1, 0),)}, r"canaries.mislabelled holds \(1, 0\)"),
    ({"reference": 0}, "canaries.reference=0 with 3 and 1 pairs"),
    ({"noise": (), "mislabelled": ()}, "with 0 and 0 pairs: expected 1"),
    ({"mislabelled": ((1, 30),)}, "asks for 30 images of .* which has 30"),
    ({"reference": 105}, "26 calibration images have only 104 wrong labels"),
  )
  for change, message in cases:
    with pytest.raises(ValueError, match=message):
      inserted(**change)
  bare = dataclasses.replace(DATASET, labels=None)
  with pytest.raises(ValueError, match="two labelled classes or more"):
    inserted(dataset=bare)
  with pytest.raises(ValueError, match="is for a model with classes: set"):
    canaries.check(inserted(), None)
  canaries.check(inserted(), 5)
  canaries.check(inserted(mislabelled=()), None)
  whole = inserted()
  changed = {**whole.info["canaries"], "sha256": "0" * 64}
  broken = dataclasses.replace(whole, info={**whole.info, "canaries": changed})
  with pytest.raises(ValueError, match="come out otherwise than when it was"):
    canaries.make(DATASET, broken)


def test_inclusion_by_coins():
  sizes = {"members": 30, "held_out": 40, "calibration": 20}
  drawn = [
    data.split(DATASET, seed=s, name="bernoulli", **sizes)
    for s in range(300, 600)
  ]
  same = data.split(DATASET, seed=300, name="random", **sizes)
  np.testing.assert_array_equal(drawn[0].pool, same.pool)
  np.testing.assert_array_equal(drawn[0].calibration, same.calibration)
  counts = np.array([len(one.members) for one in drawn])
  # Binomial(70, 1/2): mean 35, standard deviation 4.2
  assert abs(counts.mean() - 35) < 1
  assert 3.6 < counts.std() < 4.8
  assert drawn[0].info["members"] == counts[0]
  inside = np.array([[i in one.members for i in (0, 2)] for one in drawn])
  pool = np.array([[i in one.pool for i in (0, 2)] for one in drawn])
  both = pool.all(1)
  agree = np.mean(inside[both, 0] == inside[both, 1])
  assert abs(agree - 0.5) < 0.12
  with pytest.raises(ValueError, match="inclusion would be no fair coin"):
    data.split(DATASET, seed=0, name="bernoulli", planted=((2, 1),), **sizes)

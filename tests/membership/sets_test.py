# SPDX-License-Identifier: Apache-2.0
"""Dataset inference: the test by hand, its false positives, its power."""

import inspect

import numpy as np
import pytest
import scipy.special
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from diffmem import arrays, membership
from diffmem.denoiser import finite_set
from diffmem.diffusion import schedules
from diffmem.membership import sets


def test_equals_its_definition():
  rng = np.random.default_rng(0)
  suspect, outside = rng.normal(0.4, 1, (25, 3)), rng.normal(0, 2, (40, 3))
  x, y = np.concatenate([suspect, outside]), np.repeat([1, 0], [25, 40])
  seed = int(np.random.default_rng(7).integers(2**31, size=1)[0])
  scores = np.empty(65)
  for train, test in StratifiedKFold(4, shuffle=True, random_state=seed).split(
    x, y
  ):
    mean, spread = x[train].mean(0), x[train].std(0)
    model = LogisticRegression(class_weight="balanced", tol=1e-8)
    model.fit((x[train] - mean) / spread, y[train])
    scores[test] = ((x[test] - mean) / spread) @ model.coef_[0]
    scores[test] += model.intercept_[0]
  a, b = scores[:25], scores[25:]
  va, vb = a.var(ddof=1) / 25, b.var(ddof=1) / 40
  t = (a.mean() - b.mean()) / np.sqrt(va + vb)
  free = (va + vb) ** 2 / (va**2 / 24 + vb**2 / 39)
  # P[t_nu >= t] through the incomplete beta function
  tail = 0.5 * scipy.special.betainc(free / 2, 0.5, free / (free + t**2))
  expected = tail if t > 0 else 1 - tail
  got = sets.p_value(suspect, outside, folds=4, divisions=1, seed=7)
  assert got == pytest.approx(expected, rel=0.02)


def test_sets_from_outside_are_found_no_more_often_than_stated():
  rng = np.random.default_rng(1)
  runs = 120
  single, combined = np.empty(runs), np.empty(25)
  for i in range(runs):
    x = rng.normal(size=(80, 3))
    single[i] = sets.p_value(x[:40], x[40:], divisions=1, seed=i)
    if i < len(combined):
      combined[i] = sets.p_value(x[:40], x[40:], divisions=5, seed=i)
  for level in (0.05, 0.2, 0.5):
    deviation = np.sqrt(level * (1 - level) / runs)
    assert np.mean(single < level) <= level + 3 * deviation
  assert np.mean(single < 0.5) > 0.2  # and not by never finding anything
  assert np.mean(combined < 0.05) <= 0.12


def test_many_weak_images_make_a_strong_set():
  rng = np.random.default_rng(2)
  inside, outside = rng.normal(0.25, 1, (900, 4)), rng.normal(0, 1, (900, 4))
  found = sets.power(
    inside, outside, (20, 100, 400), alpha=0.05, resamples=12, seed=0
  )
  assert [row["size"] for row in found] == [20, 100, 400]
  first, _, last = found
  assert first["power"][0] < 0.6
  assert last["power"][0] == 1.0
  assert last["median_p"] < 1e-6 < first["median_p"]
  for row in found:
    value, low, high = row["power"]
    assert 0 <= low <= value <= high <= 1
    assert row["control"][1] <= 0.05
  assert sets.power(inside, outside[:30], (20,), resamples=2)[0]["control"] is (
    None
  )
  assert sets.p_value(inside[:400], outside[:400], divisions=3) < 1e-4
  assert sets.p_value(outside[:400], inside[:400], divisions=1) < 1e-4


def test_a_model_that_memorized_all_betrays_the_set():
  values = datasets.load_digits().images[:90]
  images = np.round(values * 255 / 16).astype(np.uint8)[..., None]
  images = images[np.random.default_rng(3).permutation(90)]
  members = np.asarray(arrays.from_uint8(images[:30]))
  model = finite_set(members, schedules.linear())
  features = np.column_stack(
    [membership.score("loss", model, images, t=t, draws=2) for t in (100, 300)]
  )
  inside, one, two = features[:30], features[30:60], features[60:]
  assert sets.p_value(inside, one, divisions=3) < 1e-6
  assert sets.p_value(one, two, divisions=3) > 0.01


def test_bad_input():
  rng = np.random.default_rng(4)
  a, b = rng.normal(size=(20, 2)), rng.normal(size=(20, 2))
  p_value, power = inspect.unwrap(sets.p_value), inspect.unwrap(sets.power)
  with pytest.raises(ValueError, match="9 suspect images: expected 10 or more"):
    p_value(a[:9], b)
  with pytest.raises(ValueError, match="40 of 40 features of outside images"):
    p_value(a, b * np.nan)
  with pytest.raises(ValueError, match="the features of all 40 images are the"):
    p_value(a * 0, b * 0)
  with pytest.raises(ValueError, match=r"shapes \(20, 2\) and \(20, 1\)"):
    p_value(a, b[:, :1])
  with pytest.raises(ValueError, match="folds = 1"):
    p_value(a, b, folds=1)
  with pytest.raises(ValueError, match="divisions = 0"):
    p_value(a, b, divisions=0)
  with pytest.raises(
    ValueError, match=r"a set of size 21: expected 10 .* to 20"
  ):
    power(a, b, (10, 21))
  with pytest.raises(ValueError, match=r"alpha is 1.0"):
    power(a, b, (10,), alpha=1.0)

# SPDX-License-Identifier: Apache-2.0
"""Dataset inference: the test by hand, its false positives, its power."""

import inspect

import numpy as np
import pytest
import scipy.special
from sklearn import datasets
from sklearn.linear_model import LogisticRegression

from diffmem import arrays, membership
from diffmem.denoiser import finite_set
from diffmem.diffusion import schedules
from diffmem.membership import sets


def test_equals_its_definition():
  rng = np.random.default_rng(0)
  suspect, outside = rng.normal(0.6, 1, (25, 3)), rng.normal(0, 2, (40, 3))
  seed = int(np.random.default_rng(7).integers(2**31, size=1)[0])
  draw = np.random.default_rng(seed)
  one, two = draw.permutation(25), draw.permutation(40)
  x = np.concatenate([suspect[one[:10]], outside[two[:16]]])
  mean, spread = x.mean(0), x.std(0)
  model = LogisticRegression(class_weight="balanced", tol=1e-8)
  model.fit((x - mean) / spread, np.repeat([1, 0], [10, 16]))
  a, b = (
    (rows - mean) / spread @ model.coef_[0] + model.intercept_[0]
    for rows in (suspect[one[10:]], outside[two[16:]])
  )
  va, vb = a.var(ddof=1) / 15, b.var(ddof=1) / 24
  t = (a.mean() - b.mean()) / np.sqrt(va + vb)
  free = (va + vb) ** 2 / (va**2 / 14 + vb**2 / 23)
  # P[t_nu >= t] through the incomplete beta function
  tail = 0.5 * scipy.special.betainc(free / 2, 0.5, free / (free + t**2))
  expected = tail if t > 0 else 1 - tail
  got = sets.p_value(suspect, outside, learn=0.4, divisions=1, seed=7)
  assert got == pytest.approx(expected, rel=0.02)


def test_sets_from_outside_are_found_no_more_often_than_stated():
  rng = np.random.default_rng(1)
  runs = 400
  single, combined = np.empty(runs), np.empty(60)
  for i in range(runs):
    x = rng.normal(size=(80, 10)) + rng.normal(size=(80, 1))
    single[i] = sets.p_value(x[:40], x[40:], divisions=1, seed=i)
    if i < len(combined):
      combined[i] = sets.p_value(x[:40], x[40:], divisions=5, seed=i)
  for level in (0.01, 0.05, 0.2, 0.5):
    deviation = np.sqrt(level * (1 - level) / runs)
    assert abs(np.mean(single < level) - level) <= 3 * deviation
  assert np.mean(combined < 0.05) <= 0.1


def test_many_weak_images_make_a_strong_set():
  rng = np.random.default_rng(2)
  inside, outside = rng.normal(0.25, 1, (900, 4)), rng.normal(0, 1, (900, 4))
  found = sets.power(
    inside, outside, (20, 100, 800), alpha=0.05, resamples=12, seed=0
  )
  assert [row["size"] for row in found] == [20, 100, 800]
  first, _, last = found
  assert first["power"][0] < 0.6
  assert last["power"][0] == 1.0
  assert last["median_p"] < 1e-6 < first["median_p"]
  for row in found:
    value, low, high = row["power"]
    assert 0 <= low <= value <= high <= 1
    assert row["control"] is None or row["control"][1] <= 0.05
  assert sets.power(inside, outside[:30], (20,), resamples=2)[0]["control"] is (
    None
  )
  assert sets.p_value(inside, outside, divisions=3) < 1e-4
  assert sets.p_value(outside, inside, divisions=1) < 1e-3  # not one set


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
  assert sets.p_value(inside, one, divisions=3) < 1e-4
  assert sets.p_value(one, two, divisions=3) > 0.01


def test_bad_input():
  rng = np.random.default_rng(4)
  a, b = rng.normal(size=(20, 2)), rng.normal(size=(20, 2))
  p_value, power = inspect.unwrap(sets.p_value), inspect.unwrap(sets.power)
  with pytest.raises(ValueError, match="7 suspect images: expected 8 or more"):
    p_value(a[:7], b)
  with pytest.raises(ValueError, match="40 of 40 features of outside images"):
    p_value(a, b * np.nan)
  with pytest.raises(ValueError, match="the features of all 40 images are the"):
    p_value(a * 0, b * 0)
  with pytest.raises(ValueError, match=r"shapes \(20, 2\) and \(20, 1\)"):
    p_value(a, b[:, :1])
  with pytest.raises(ValueError, match=r"learn is 1.0: expected"):
    p_value(a, b, learn=1.0)
  with pytest.raises(ValueError, match="divisions = 0"):
    p_value(a, b, divisions=0)
  with pytest.raises(
    ValueError, match=r"a set of size 21: expected 8 .* to 20"
  ):
    power(a, b, (10, 21))
  with pytest.raises(ValueError, match=r"alpha is 1.0"):
    power(a, b, (10,), alpha=1.0)

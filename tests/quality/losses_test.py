# SPDX-License-Identifier: Apache-2.0
"""Denoising losses of models that are known exactly."""

import numpy as np
import pytest
from sklearn import datasets

from diffmem import arrays
from diffmem.denoiser import Denoiser, finite_set, gaussian
from diffmem.diffusion import schedules
from diffmem.quality import losses, measure

SCHEDULE = schedules.linear()
PIXELS = np.round(datasets.load_digits().images * 255 / 16).astype(np.uint8)
DIGITS = PIXELS[..., None]


def test_times_lie_evenly():
  model = Denoiser(lambda x, t, c: x, SCHEDULE, (8, 8, 1))
  assert losses.times(model, 4).tolist() == [125, 375, 625, 875]
  with pytest.raises(ValueError, match="1001 times of a schedule of 1000"):
    losses.times(model, 1001)


def test_of_a_gaussian_it_is_the_posterior_variance():
  """E |eps - eps_hat|^2 / d = mean of ab v / (ab v + 1 - ab), v eigenvalues."""
  rng = np.random.default_rng(0)
  v = rng.uniform(0.05, 0.3, 64)
  x = rng.normal(size=(300, 64)) * np.sqrt(v)
  model = gaussian(np.zeros((8, 8, 1)), np.diag(v), SCHEDULE)
  measured = losses.per_image(model, count=5, draws=20, seed=0)
  # Images in [-1, 1], not rounded to grey levels.
  found = measured(x.astype(np.float32).reshape(-1, 8, 8, 1), None)
  ab = SCHEDULE.alpha_bar[losses.times(model, 5)][:, None]
  expected = (ab * v / (ab * v + 1 - ab)).mean(axis=1)
  np.testing.assert_allclose(found.mean(axis=0), expected, rtol=0.08)


def test_a_model_that_memorizes_denoises_members_better():
  members, others = DIGITS[:40], DIGITS[40:80]
  model = finite_set(np.asarray(arrays.from_uint8(members)), SCHEDULE)
  run = losses.per_image(model, count=4, draws=2, seed=0)
  times = losses.times(model, 4)
  found = measure.losses(run(members, None), run(others, None), times, groups=8)
  assert found["gap"][1] > 0
  assert found["images"] == {"members": 40, "held_out": 40}
  assert [row["t"] for row in found["by_time"]] == [125, 375, 625, 875]
  mean = np.mean([row["members"][0] for row in found["by_time"]])
  assert found["members"][0] == pytest.approx(mean)
  gaps = [row["gap"][0] for row in found["by_time"]]
  assert found["gap"][0] == pytest.approx(np.mean(gaps))


def test_images_do_not_depend_on_their_neighbours():
  model = finite_set(np.asarray(arrays.from_uint8(DIGITS[:9])), SCHEDULE)
  run = losses.per_image(model, count=2, draws=2, seed=3)
  whole = run(DIGITS[:12], None)
  again = run(DIGITS[6:12], None)
  np.testing.assert_allclose(again, whole[6:], rtol=1e-4, atol=1e-8)


def test_a_model_that_cannot_be_traced_gives_the_same():
  oracle = finite_set(np.asarray(arrays.from_uint8(DIGITS[:9])), SCHEDULE)
  host = Denoiser(
    lambda x, t, c: np.asarray(oracle.eps(x, t, c)),
    SCHEDULE,
    (8, 8, 1),
    traceable=False,
  )
  one, other = (
    losses.per_image(m, count=2, draws=1, seed=0)(DIGITS[:10], None)
    for m in (oracle, host)
  )
  np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-8)


def test_images_of_another_size_are_refused():
  model = Denoiser(lambda x, t, c: x, SCHEDULE, (7, 8, 1))
  run = losses.per_image(model, count=2, draws=1, seed=0)
  with pytest.raises(ValueError, match=r"\(8, 8, 1\) for a model of \(7, 8"):
    run(DIGITS[:3], None)

# SPDX-License-Identifier: Apache-2.0
"""On closed forms: what a model remembers is filled in, and nothing else."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from diffmem import arrays, keys
from diffmem.denoiser import finite_set, gaussian
from diffmem.diffusion import schedules
from diffmem.extraction import inpaint, inpaint_mask

SCHEDULE = schedules.linear(1000)
SHAPE = (4, 4, 1)
KNOWN = inpaint_mask.known("left", SHAPE)
KEY = keys.root(5)
OPTIONS = dict(
  candidates=12,
  batch=8,
  stepper="ddpm_fixed_small",
  steps=20,
  eta=1.0,
  clip=True,
  jump=4,
  resample=3,
  t=100,
  draws=4,
)


@pytest.fixture(scope="module")
def pixels():
  return np.random.default_rng(0).integers(0, 256, (16, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def memorizer(pixels):
  """Of the first eight; with the others' weights it is its own shadow."""
  return finite_set(arrays.from_uint8(pixels[:8]), SCHEDULE)


@pytest.fixture(scope="module")
def shadow(pixels):
  return finite_set(arrays.from_uint8(pixels[8:]), SCHEDULE).params


@pytest.fixture(scope="module")
def fill(memorizer):
  return inpaint.attack(memorizer, KNOWN, **OPTIONS)


def test_a_member_is_filled_in_and_others_are_not(
  fill, memorizer, shadow, pixels
):
  for row in (0, 5):
    found = fill(memorizer.params, pixels[row], KEY, shadow)
    assert (found.images[:, KNOWN[..., 0]] == pixels[row][KNOWN[..., 0]]).all()
    near = inpaint.distances(found.images, pixels[row], KNOWN)
    assert near[found.best(3)].max() < 0.02
    never = fill(shadow, pixels[row], KEY, memorizer.params)
    far = inpaint.distances(never.images, pixels[row], KNOWN)
    assert far.min() > 0.1


@pytest.mark.parametrize("with_shadow", [True, False])
def test_nobody_looks_at_what_is_hidden(
  fill, memorizer, shadow, pixels, with_shadow
):
  """Noise in its place: the same candidates, the same scores, bit by bit."""
  image = pixels[3]
  noise = np.random.default_rng(9).integers(0, 256, SHAPE, np.uint8)
  other = np.where(KNOWN, image, noise)
  assert (other != image).any()
  given = (KEY, shadow if with_shadow else None)
  one, two = (fill(memorizer.params, x, *given) for x in (image, other))
  np.testing.assert_array_equal(one.images, two.images)
  np.testing.assert_array_equal(one.scores, two.scores)
  np.testing.assert_array_equal(one.best(12), two.best(12))
  # And what is known matters.
  third = fill(memorizer.params, np.where(KNOWN, noise, image), *given)
  assert (third.images != one.images).any()


def test_a_candidate_is_a_function_of_its_id(memorizer, pixels):
  few = dict(OPTIONS, steps=5, candidates=10)
  found = [
    inpaint.attack(memorizer, KNOWN, **few | dict(batch=batch))(
      memorizer.params, pixels[12], KEY
    )
    for batch in (8, 16)
  ]
  gap = np.abs(found[0].images.astype(int) - found[1].images)
  assert gap.max() <= 1
  np.testing.assert_allclose(found[0].scores, found[1].scores, rtol=1e-2)


def test_without_a_shadow_the_score_is_the_loss(fill, memorizer, pixels):
  found = fill(memorizer.params, pixels[1], KEY)
  np.testing.assert_allclose(found.scores, -np.log(found.losses), rtol=1e-6)
  assert found.losses[found.best(1)] == found.losses.min()


def test_only_what_is_remembered_scores_high(fill, memorizer, shadow, pixels):
  found = fill(memorizer.params, pixels[2], KEY, shadow)
  other = fill(shadow, pixels[2], KEY, memorizer.params)
  assert found.scores.min() > 2
  assert other.scores.max() < 1  # neither of them knows what it filled in


def test_resampling_draws_from_the_conditional_law():
  """Of a normal of two pixels: the hidden one given the known one.

  Each pasted step is wrong on its own; going back repairs it.
  """
  rho, value = 0.8, 0.5
  cov = 0.25 * np.array([[1, rho], [rho, 1]])
  model = gaussian(np.zeros((1, 2, 1)), cov, SCHEDULE)
  visible = np.array([0.0, value], np.float32).reshape(1, 2, 1)
  known = np.array([False, True]).reshape(1, 2, 1)
  options = dict(
    stepper="ddpm_fixed_large", steps=60, eta=1.0, clip=False, jump=1
  )
  errors = {}
  for resample in (1, 20):
    sample = jax.jit(inpaint.repaint(model, resample=resample, **options))
    x = sample(model.params, visible, known, np.arange(4096), KEY)
    np.testing.assert_array_equal(x[:, 0, 1, 0], np.float32(value))
    errors[resample] = abs(float(x[:, 0, 0, 0].mean()) - rho * value)
  assert errors[20] < 0.03
  assert errors[1] > 4 * errors[20]
  spread = float(x[:, 0, 0, 0].std())
  assert spread == pytest.approx(0.5 * np.sqrt(1 - rho**2), abs=0.05)


def test_the_path():
  assert inpaint.visits(3, 1, 1) == [(2, None), (1, None), (0, None)]
  path = inpaint.visits(10, 3, 3)
  assert path[0] == (9, None)
  assert path[-1] == (0, None)
  for (level, back), (after, _) in itertools.pairwise(path):
    assert after == (level - 1 if back is None else back)
  went_back = [(level - 1, back) for level, back in path if back is not None]
  assert went_back == [(6, 9)] * 2 + [(3, 6)] * 2 + [(0, 3)] * 2
  assert len(path) == 10 + 3 * 2 * 3


def test_on_the_host_as_in_one_program(memorizer, pixels):
  few = dict(OPTIONS, steps=2, jump=1, resample=2, draws=1, candidates=8)
  host = dataclasses.replace(memorizer, traceable=False, eps=None)
  one, two = (
    inpaint.attack(d, KNOWN, **few)(d.params, pixels[4], KEY)
    for d in (memorizer, host)
  )
  assert np.abs(one.images.astype(int) - two.images).max() <= 1
  np.testing.assert_allclose(one.losses, two.losses, rtol=0.05)


def test_conditions_are_heard(pixels):
  labels = np.arange(8) % 2
  model = finite_set(arrays.from_uint8(pixels[:8]), SCHEDULE, labels=labels)
  fill = inpaint.attack(model, KNOWN, **OPTIONS | dict(candidates=8))
  right, wrong = (
    fill(model.params, pixels[0], KEY, None, np.int32(label))
    for label in (0, 1)
  )
  near, far = (
    inpaint.distances(found.images, pixels[0], KNOWN).min()
    for found in (right, wrong)
  )
  assert near < 0.02 < 0.1 < far


def test_distances_are_over_the_hidden_pixels():
  truth = np.zeros(SHAPE, np.uint8)
  images = np.zeros((2, *SHAPE), np.uint8)
  images[0, :, 2:] = 255  # the known half
  images[1, :, :1] = 255  # half of the hidden one
  found = inpaint.distances(images, truth, KNOWN)
  np.testing.assert_allclose(found, [0, np.sqrt(0.5)])


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (dict(jump=0), "jump=0"),
    (dict(jump=21), "jump=21: expected 1 to steps=20"),
    (dict(resample=0), "resample=0"),
    (dict(candidates=0), "candidates=0"),
    (dict(draws=0), "draws=0"),
    (dict(t=1000), "t=1000 is outside"),
    (dict(steps=2000), "cannot sample in 2000 steps"),
    (dict(stepper="ddpm_learned"), "needs a model with learned_variance"),
    (dict(known=np.ones((4, 4, 1), bool)), "hides nothing"),
    (dict(known=np.zeros((4, 4, 1), bool)), "hides all"),
    (dict(known=np.ones((4, 5, 1), bool)), "is 5 x 4, the images are 4 x 4"),
  ],
)
def test_errors(memorizer, options, words):
  with pytest.raises(ValueError, match=words):
    inpaint.attack(memorizer, **{"known": KNOWN} | OPTIONS | options)


def test_latents_are_refused(memorizer):
  latent = dataclasses.replace(memorizer, decode=lambda x: x, eps=None)
  with pytest.raises(ValueError, match="latents"):
    inpaint.attack(latent, KNOWN, **OPTIONS)

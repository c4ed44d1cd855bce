# SPDX-License-Identifier: Apache-2.0
"""On normals, where divergences have closed forms."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import arrays
from diffmem.denoiser import finite_set, gaussian
from diffmem.diffusion import schedules
from diffmem.extraction import divergence

SCHEDULE = schedules.linear()
SHAPE = (3, 3, 1)
OPTIONS = dict(blur=0.1, draws=4, levels=60, probes=None, batch=16)


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  x = np.clip(0.1 + 0.3 * rng.normal(size=(24, *SHAPE)), -1, 1)
  return np.asarray(arrays.to_uint8(jnp.asarray(x)))


def normal(mean, spread):
  return gaussian(np.full(SHAPE, mean), spread**2 * np.eye(9), SCHEDULE)


def expected(images, model, other, blur):
  """E of the difference, in bits a dimension, per image; closed form."""
  x = np.asarray(arrays.from_uint8(images), np.float64)
  sigma = 1 / SCHEDULE.alpha_bar[0] - 1

  def cost(mean, spread):
    var = spread**2 + sigma
    gap = (x - mean) ** 2 + blur**2
    return 0.5 * (gap / var + np.log(2 * np.pi * var)).mean((1, 2, 3))

  return (cost(*model) - cost(*other)) / np.log(2)


def test_a_difference_is_its_closed_form(images):
  model, other = (0.1, 0.3), (0.0, 0.5)
  fn = divergence.densities(normal(*model), **OPTIONS)
  first, second = (fn(normal(*m).params, images, 0) for m in (model, other))
  assert first.shape == (24, 4)
  found = divergence.difference(first, second, 9)
  truth = expected(images, model, other, 0.1)
  assert abs(found.mean() - truth.mean()) < 0.02
  assert found.mean() < 0  # the first is closer to these images
  # Pairs: the difference is far sharper than either density.
  assert (first - second).std() < 0.8 * first.std()


def test_the_same_model_differs_by_nothing(images):
  fn = divergence.densities(normal(0.1, 0.3), **OPTIONS | dict(probes=1))
  params = normal(0.1, 0.3).params
  one, two = (fn(params, images, 3) for _ in range(2))
  np.testing.assert_array_equal(one, two)
  assert (divergence.difference(one, two, 9) == 0).all()
  assert (fn(params, images, 4) != one).all()


def test_what_remembers_a_set_is_closest_to_it(images):
  seen, unseen = images[:12], images[12:]
  oracle = finite_set(arrays.from_uint8(seen), SCHEDULE)
  plain = normal(0.1, 0.3)
  options = OPTIONS | dict(blur=0.02, levels=100)
  gaps = []
  for x in (seen, unseen):
    pair = [
      divergence.densities(d, **options)(d.params, x, 0)
      for d in (oracle, plain)
    ]
    gaps.append(divergence.difference(*pair, 9).mean())
  assert gaps[0] < -1 < 1 < gaps[1]


def test_bounds_tell_the_same(images):
  model, other = (0.1, 0.3), (0.0, 0.5)
  fn = divergence.bounds(normal(*model), variance="fixed_large", batch=24)
  first, second = (fn(normal(*m).params, images, 0) for m in (model, other))
  truth = expected(images, model, other, 0.0)
  assert abs((first - second).mean() - truth.mean()) < 0.1


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (dict(blur=0.0), "blur=0.0"),
    (dict(draws=0), "draws=0"),
    (dict(levels=0), "steps=0"),
    (dict(probes=0), "probes=0"),
  ],
)
def test_errors(options, words):
  with pytest.raises(ValueError, match=words):
    divergence.densities(normal(0.0, 0.3), **OPTIONS | options)


def test_other_images_are_refused():
  with pytest.raises(ValueError, match="the same images and draws"):
    divergence.difference(np.zeros((3, 2)), np.zeros((4, 2)), 9)


def test_architectures_are_shared(images):
  """One function for many weights."""
  fn = divergence.densities(
    dataclasses.replace(normal(0.0, 0.4), params=(), eps=None), **OPTIONS
  )
  assert np.isfinite(fn(normal(0.1, 0.3).params, images[:3], 0)).all()

# SPDX-License-Identifier: Apache-2.0
"""Penalties and losses of GANs against differences and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import keys
from diffmem.train import gan_losses, gan_penalties

SHAPE = (3, 2, 2, 1)
r1 = jax.jit(gan_penalties.r1, static_argnums=0)
gradient = jax.jit(
  gan_penalties.gradient, static_argnums=0, static_argnames="one_sided"
)
lipschitz = jax.jit(
  gan_penalties.lipschitz,
  static_argnums=0,
  static_argnames=("k", "xi", "least", "most"),
)
path_length = jax.jit(gan_penalties.path_length, static_argnums=0)
W = np.random.default_rng(1).normal(size=(4, 1)).astype(np.float32)


def logits(x):
  """A curved function of each image alone."""
  return jnp.sin(x.reshape(len(x), -1) @ W)[:, 0]


def images(seed, shape=SHAPE):
  rng = np.random.default_rng(seed)
  return rng.uniform(-0.9, 0.9, shape).astype(np.float32)


def slopes(x, step=1e-5):
  """The gradient of each image's logit, by central differences."""

  def double(x):
    return np.sin(x.reshape(len(x), -1) @ W.astype(np.float64))[:, 0]

  found = np.zeros(x.shape)
  for at in np.ndindex(x.shape[1:]):
    moved = np.zeros(x.shape)
    moved[(slice(None), *at)] = step
    rise = double(x + moved) - double(x - moved)
    found[(slice(None), *at)] = rise / (2 * step)
  return found.reshape(len(x), -1)


def test_r1_is_half_the_square_of_the_slope():
  x = images(2)
  expected = 0.5 * (slopes(x) ** 2).sum(1)
  np.testing.assert_allclose(r1(logits, x), expected, rtol=1e-4)


@pytest.mark.parametrize("one_sided", [False, True])
def test_the_gradient_penalty_looks_between_real_and_generated(one_sided):
  x, y, key = images(2), images(3), keys.root(4)
  u = np.asarray(jax.random.uniform(key, (3, 1, 1, 1)))
  over = np.linalg.norm(slopes(u * x + (1 - u) * y), axis=1) - 1
  expected = np.maximum(over, 0) ** 2 if one_sided else over**2
  found = gradient(logits, x, y, key, one_sided=one_sided)
  np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-5)


def test_penalties_have_the_gradient_of_their_value():
  """The second derivative, against differences of the weights."""

  @jax.jit
  def penalty(w):
    def of(x):
      return jnp.sin(x.reshape(len(x), -1) @ w)[:, 0]

    return gan_penalties.r1(of, jnp.asarray(images(2))).sum()

  exact = np.asarray(jax.jit(jax.grad(penalty))(W))
  for i in range(4):
    step = np.zeros((4, 1), np.float32)
    step[i] = 1e-2
    near = (penalty(W + step) - penalty(W - step)) / 2e-2
    assert abs(near - exact[i, 0]) < 1e-2 * max(abs(exact[i, 0]), 0.1)


def test_a_line_pays_for_what_it_rises_beyond_its_allowance():
  """On a line the worst direction is known, and the slope is its own."""
  w = np.array([[1.5], [0.0], [-2.0], [0.0]], np.float32)
  options = dict(xi=0.1, least=0.01, most=0.05)

  def line(x):
    return (x.reshape(len(x), -1) @ w)[:, 0]

  x = images(5)
  found = lipschitz(line, x, keys.root(6), k=1.0, **options)
  np.testing.assert_allclose(found, (2.5 - 1.0) ** 2, rtol=1e-2)
  free = lipschitz(line, x, keys.root(6), k=2.6, **options)
  np.testing.assert_array_equal(free, 0.0)


def test_neighbours_stay_images():
  def fenced(x):
    return jnp.where(jnp.abs(x).max((1, 2, 3)) > 1, jnp.nan, logits(x))

  far = dict(k=1.0, xi=10.0, least=5.0, most=10.0)
  found = lipschitz(fenced, images(5), keys.root(6), **far)
  assert np.isfinite(found).all()


def test_path_length_of_a_linear_generator():
  """J is a matrix A: |A^T y| of the very y, and no penalty at its mean."""
  rng = np.random.default_rng(7)
  a = rng.normal(size=(5, 4)).astype(np.float32)

  def make(latents):
    return (latents @ a).reshape(-1, 2, 2, 1)

  z, key = rng.normal(size=(3, 5)).astype(np.float32), keys.root(9)
  y = np.asarray(jax.random.normal(key, (3, 2, 2, 1))).reshape(3, 4) / 2
  lengths = np.linalg.norm(y @ a.T, axis=1)
  mean = jnp.asarray(1.5)
  value, found = path_length(make, z, mean, key)
  np.testing.assert_allclose(found, lengths, rtol=1e-5)
  np.testing.assert_allclose(value, (lengths - 1.5) ** 2, rtol=1e-4)
  moved = gan_penalties.follow(mean, found, decay=0.01)
  np.testing.assert_allclose(moved, 1.5 + 0.01 * (lengths.mean() - 1.5), 1e-5)


@pytest.mark.parametrize(
  ("name", "real", "fake", "generator"),
  [
    ("logistic", 0.126928, 0.474077, 0.974077),
    ("hinge", 0.0, 0.5, 0.5),
    ("wasserstein", -2.0, -0.5, 0.5),
  ],
)
def test_losses_by_hand(name, real, fake, generator):
  loss = gan_losses.create(name)
  at = jnp.array([2.0]), jnp.array([-0.5])
  np.testing.assert_allclose(loss.real(at[0]), real, atol=1e-6)
  np.testing.assert_allclose(loss.fake(at[1]), fake, atol=1e-6)
  np.testing.assert_allclose(loss.generator(at[1]), generator, atol=1e-6)


def test_an_unknown_loss_is_refused():
  with pytest.raises(ValueError, match="loss='hing': choose one of"):
    gan_losses.create("hing")

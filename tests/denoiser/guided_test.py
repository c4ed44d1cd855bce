# SPDX-License-Identifier: Apache-2.0
"""Guidance by a classifier, on oracles whose classifier has a closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import arrays, keys
from diffmem.denoiser import Denoiser, finite_set, guided
from diffmem.denoiser.guided import Target
from diffmem.diffusion import process, schedules
from diffmem.sample import chain

SCHEDULE = schedules.linear()
SHAPE = (4, 4, 1)
LABELS = np.repeat([0, 1, 2], 4)


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  centres = rng.uniform(40, 215, (3, 1, *SHAPE))
  values = centres + rng.normal(size=(3, 4, *SHAPE)) * 20
  values = values.reshape(12, *SHAPE).clip(0, 255).astype(np.uint8)
  return np.asarray(arrays.from_uint8(values))


def exact(params, x_t, t):
  """The log p(c | x_t), up to a constant, of a finite set with LABELS."""
  a, s = process.levels(process.per_image(t), SCHEDULE.alpha_bar)
  flat = params.reshape(1, 12, -1)
  away = (x_t / a).reshape(len(x_t), 1, -1) - flat
  variance = ((s / a) ** 2)[:, :, 0, 0]
  exponent = -(away**2).sum(axis=2) / (2 * variance)
  of = jnp.asarray(LABELS[None] == np.arange(3)[:, None])
  every = jnp.where(of[None], exponent[:, None], -jnp.inf)
  return jax.nn.logsumexp(every, axis=2)


def test_exact_guidance_of_scale_1_is_the_conditional_model(images):
  """Bayes: score(x) + grad log p(c | x) = score(x | c)."""
  plain = finite_set(images, SCHEDULE)
  conditional = finite_set(images, SCHEDULE, labels=LABELS)
  made = guided.by_classifier(plain, exact, jnp.asarray(images))
  classes = jnp.array([0, 1, 2, 1])
  x0 = images[[0, 5, 9, 6]]
  noise = np.random.default_rng(1).normal(size=x0.shape).astype(np.float32)
  guide, condition, free = (jax.jit(d.eps) for d in (made, conditional, plain))
  for at in (300, 600, 900):
    t = jnp.full(4, at)
    x_t = process.add_noise(x0, noise, t, SCHEDULE.alpha_bar)
    found = guide(x_t, t, Target(classes, jnp.ones(4)))
    expected = condition(x_t, t, classes)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    off = guide(x_t, t, Target(classes, jnp.zeros(4)))
    np.testing.assert_allclose(off, free(x_t, t), atol=1e-6)


@pytest.mark.parametrize("traceable", [True, False])
def test_guidance_towards_a_cluster_yields_its_members(images, traceable):
  plain = finite_set(images, SCHEDULE)
  if not traceable:
    plain = Denoiser(plain.eps, SCHEDULE, SHAPE, traceable=False)
  made = guided.by_classifier(plain, exact, jnp.asarray(images))
  draw = chain.chain(
    made, stepper="ddim", steps=25, eta=0.0, guidance=1.0, clip=True
  )
  draw = jax.jit(draw) if traceable else draw
  ids, key = jnp.arange(24), keys.root(0)
  for c in range(3) if traceable else [1]:
    target = Target(jnp.full(24, c), jnp.full(24, 1.0))
    x = np.asarray(draw(made.params, ids, key, target))
    nearest = np.argmin(((x[:, None] - images) ** 2).sum((2, 3, 4)), axis=1)
    assert (LABELS[nearest] == c).all()
    assert len(set(nearest)) == 4  # all members of the cluster
    assert np.abs(x - images[nearest]).max() < 0.02
  off = Target(jnp.zeros(24, jnp.int32), jnp.zeros(24))
  x = np.asarray(draw(made.params, ids, key, off))
  nearest = np.argmin(((x[:, None] - images) ** 2).sum((2, 3, 4)), axis=1)
  assert len(set(LABELS[nearest])) == 3


def test_adapters_move_from_the_model_to_the_adapted_one(images):
  plain = finite_set(images, SCHEDULE)
  conditional = finite_set(images, SCHEDULE, labels=LABELS)
  assert conditional.apply is not None
  made = guided.by_adapters(plain, conditional.apply, conditional.params)
  x_t = jnp.asarray(np.random.default_rng(1).normal(size=(3, *SHAPE)))
  t, classes = jnp.full(3, 500), jnp.arange(3)
  both = (
    jax.jit(plain.eps)(x_t, t),
    jax.jit(conditional.eps)(x_t, t, classes),
  )
  move = jax.jit(made.eps)
  for scale in (0.0, 1.0, 2.0):
    found = move(x_t, t, Target(classes, jnp.full(3, scale)))
    expected = both[0] + scale * (both[1] - both[0])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_learned_variance_and_a_null_condition_stay(images):
  seen = []

  def apply(params, x_t, t, cond):
    seen.append(cond)
    return jnp.concatenate([0.5 * x_t, 0.25 * jnp.ones_like(x_t)], axis=-1)

  base = Denoiser(
    apply=apply, params={}, schedule=SCHEDULE, shape=SHAPE, num_classes=7,
    null_cond=7, learned_variance=True, prediction="v",
  )  # fmt: skip
  made = guided.by_classifier(base, exact, jnp.asarray(images))
  x_t, t = jnp.ones((2, *SHAPE)), jnp.array([100, 900])
  target = Target(jnp.array([0, 1]), jnp.zeros(2))
  eps, fraction = jax.jit(made.predict)(made.params, x_t, t, target)
  expected, other = base.predict({}, x_t, t, jnp.full(2, 7))
  np.testing.assert_allclose(eps, expected, atol=1e-6)
  np.testing.assert_allclose(fraction, other, atol=1e-6)
  np.testing.assert_array_equal(seen[0], [7, 7])


def test_one_gradient_and_one_call_a_step(images):
  calls = {"model": 0, "classifier": 0}

  def count(name, fn, *args):
    calls[name] += 1
    return fn(*args)

  plain = finite_set(images, SCHEDULE)
  base = Denoiser(
    functools.partial(count, "model", plain.eps),
    SCHEDULE,
    SHAPE,
    traceable=False,
  )
  made = guided.by_classifier(
    base, functools.partial(count, "classifier", exact), jnp.asarray(images)
  )
  draw = chain.chain(
    made, stepper="ddim", steps=5, eta=0.0, guidance=1.0, clip=True
  )
  target = Target(jnp.zeros(2, jnp.int32), jnp.ones(2))
  draw(made.params, jnp.arange(2), keys.root(0), target)
  assert calls["model"] == 5
  assert calls["classifier"] == 1  # traced once, run at every step

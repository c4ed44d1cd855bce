# SPDX-License-Identifier: Apache-2.0
"""Anti-memorization guidance: its gradient, its rule, what it prevents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from diffmem import arrays, keys
from diffmem.denoiser import (
  Denoiser,
  captioned_set,
  conditions,
  finite_set,
  gaussian,
)
from diffmem.diffusion import schedules
from diffmem.sample import antimemorization, chain

SCHEDULE = schedules.linear()
OFF = dict(
  similarity=0.0,
  despecify=0.0,
  deduplicate=0.0,
  early=1.0,
  late=1.0,
  decay=6.25,
  alpha=0.5,
  neighbours=50,
  through="x0",
)
KEY = keys.root(0)
PROTECTED = 60


@pytest.fixture(scope="module")
def digits():
  images = np.round(datasets.load_digits().images * 255 / 16)
  order = np.random.default_rng(0).permutation(len(images))
  pixels = images.astype(np.uint8)[order][..., None]
  return np.asarray(arrays.from_uint8(pixels))


@functools.cache
def sampler(denoiser, **options):
  plain = dict(stepper="ddim", steps=25, eta=0.0, guidance=1.0, clip=True)
  return jax.jit(chain.chain(denoiser, **plain | options))


def sampled(denoiser, ids=range(64), cond=None, **options):
  ids = np.asarray(ids, np.int32)
  return np.asarray(
    sampler(denoiser, **options)(denoiser.params, ids, KEY, cond)
  )


def rms(x, references):
  gap = x[:, None] - references[None]
  return np.sqrt((gap**2).mean((2, 3, 4))).min(1) / 2


def sigma(x, references, alpha, k):
  """Of one image, in float64, from the definition."""
  lengths = np.sort(np.sqrt(((references - x) ** 2).sum((1, 2, 3))))
  return -lengths[0] / (alpha * lengths[:k].mean())


def test_similarity_and_its_gradient(digits):
  """Against the definition, and against finite differences of it."""
  references = digits[:30].astype(np.float64)
  rng = np.random.default_rng(1)
  x = (digits[:4] + 0.2 * rng.normal(size=(4, 8, 8, 1))).astype(np.float32)
  prepared = antimemorization._prepared(digits[:30])
  value, gradient, nearest = antimemorization.similarity(prepared, x, 0.5, 7)
  exact = x.astype(np.float64)
  want = [sigma(y, references, 0.5, 7) for y in exact]
  np.testing.assert_allclose(value, want, rtol=1e-5)
  np.testing.assert_array_equal(nearest, np.arange(4))
  for _ in range(5):
    move = rng.normal(size=(4, 8, 8, 1)) * 1e-5
    change = [
      sigma(y + d, references, 0.5, 7) - sigma(y - d, references, 0.5, 7)
      for y, d in zip(exact, move, strict=True)
    ]
    told = 2 * (np.asarray(gradient, np.float64) * move).sum((1, 2, 3))
    np.testing.assert_allclose(change, told, rtol=1e-3, atol=1e-9)


def test_an_exact_copy_has_no_direction(digits):
  prepared = antimemorization._prepared(digits[:30])
  value, gradient, _ = antimemorization.similarity(prepared, digits[:3], 0.5, 7)
  np.testing.assert_allclose(value, 0.0, atol=1e-3)
  assert np.isfinite(gradient).all()


def test_through_the_network_it_is_the_gradient_at_x_t(digits):
  model = finite_set(digits[:40], SCHEDULE)
  references, t = digits[:30], np.full(3, 500)
  rng = np.random.default_rng(2)
  x_t = rng.normal(size=(3, 8, 8, 1)).astype(np.float32)
  prepared = antimemorization._prepared(references)
  ab = SCHEDULE.alpha_bar[500]
  a, s = np.sqrt(ab), np.sqrt(1 - ab)

  def value(x):
    x0 = (x - s * model.eps(x, t, None)) / a
    return antimemorization.similarity(prepared, x0, 0.5, 7)[0]

  options = OFF | dict(neighbours=7, early=9.0, late=9.0, similarity=2.0)
  for through in antimemorization.THROUGH:
    guided = antimemorization.guided(
      model, references, **options | {"through": through}
    )
    moved = np.asarray(guided.eps(x_t, t) - model.eps(x_t, t)) / (2 * s)
    if through == "network":
      for _ in range(3):
        d = rng.normal(size=x_t.shape).astype(np.float32) * 3e-3
        change = np.asarray(value(x_t + d) - value(x_t - d))
        told = 2 * (moved * d).sum((1, 2, 3))
        np.testing.assert_allclose(change, told, rtol=0.05, atol=2e-5)
    else:
      x0 = (x_t - s * np.asarray(model.eps(x_t, t))) / a
      gradient = antimemorization.similarity(prepared, x0, 0.5, 7)[1]
      np.testing.assert_allclose(moved, gradient / a, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def memorizer(digits):
  """Of 200 images; and the same, kept from returning the first 60."""
  model = finite_set(digits[:200], SCHEDULE)
  options = OFF | {"similarity": 10.0}
  guided = {
    through: antimemorization.guided(
      model, digits[:PROTECTED], **options | {"through": through}
    )
    for through in antimemorization.THROUGH
  }
  return model, guided


@pytest.mark.parametrize("through", antimemorization.THROUGH)
def test_protected_images_are_no_longer_drawn(digits, memorizer, through):
  protected = digits[:PROTECTED]
  before, after = sampled(memorizer[0]), sampled(memorizer[1][through])
  assert (rms(before, protected) < 0.05).mean() > 0.2
  assert (rms(after, protected) < 0.05).mean() < 0.08
  # What is drawn in their place are images all the same.
  assert (rms(after, digits[:200]) < 0.05).mean() > 0.9


def test_what_is_not_similar_is_left_alone(digits):
  """Samples of a Gaussian: nearly all are, to the last bit."""
  flat = digits.reshape(len(digits), -1)
  model = gaussian(flat.mean(0).reshape(8, 8, 1), np.cov(flat.T), SCHEDULE)
  guided = antimemorization.guided(
    model, digits[:PROTECTED], **OFF | {"similarity": 10.0}
  )
  before, after = sampled(model), sampled(guided)
  same = np.abs(before - after).max((1, 2, 3)) < 1e-6
  assert same.mean() > 0.9
  assert (rms(after, digits[:PROTECTED]) < 0.05).sum() == 0


def test_an_image_is_a_function_of_its_id(memorizer):
  guided = memorizer[1]["x0"]
  order = np.random.default_rng(5).permutation(64)
  np.testing.assert_allclose(
    sampled(guided, order), sampled(guided)[order], atol=1e-4
  )


def captions(count):
  return {
    "tokens": np.random.default_rng(3)
    .normal(size=(count, 3, 4))
    .astype(np.float32),
    "mask": np.ones((count, 3), bool),
  }


def test_guidance_by_conditions_follows_the_equations(digits):
  """Eps of one step, from the plain predictions."""
  model = captioned_set(digits[:20], np.arange(20), captions(20), SCHEDULE)
  references, known = digits[:20], captions(20)
  t = np.full(3, 400)
  x_t = np.asarray(
    np.sqrt(SCHEDULE.alpha_bar[400]) * digits[5:8]
    + np.sqrt(1 - SCHEDULE.alpha_bar[400])
    * np.random.default_rng(4).normal(size=(3, 8, 8, 1)),
    np.float32,
  )
  cond = jax.tree.map(lambda leaf: leaf[[9, 6, 7]], known)
  one, none = model.eps(x_t, t, cond), model.eps(x_t, t, None)
  options = OFF | dict(neighbours=5, early=1.9, late=1.9)
  for despecify, deduplicate in ((0.8, 0.0), (99.0, 9.0), (0.5, 99.0)):
    guided = antimemorization.guided(
      model,
      references,
      guidance=4.0,
      reference_cond=known,
      **options | dict(despecify=despecify, deduplicate=deduplicate),
    )
    eps = np.asarray(none + 4.0 * (one - none))
    a = np.sqrt(SCHEDULE.alpha_bar[400])
    x0 = np.clip((x_t - np.sqrt(1 - a**2) * eps) / a, -1, 1)
    lengths = np.sqrt(((x0[:, None] - references[None]) ** 2).sum((2, 3, 4)))
    over = 1.9 - lengths.min(1) / (0.5 * np.sort(lengths, 1)[:, :5].mean(1))
    assert (over > 0).any()
    s1 = np.clip(despecify * over, 0, 3)
    s2 = np.clip(deduplicate * over, 0, 3 - s1)
    near = conditions.take(known, lengths.argmin(1))
    own = model.eps(x_t, t, near)
    want = (
      eps
      - s1[:, None, None, None] * (one - none)
      - s2[:, None, None, None] * (own - none)
    )
    np.testing.assert_allclose(guided.eps(x_t, t, cond), want, atol=2e-3)


def test_a_learned_variance_passes_through(digits):
  def apply(params, x_t, t, cond=None):
    return jnp.concatenate([0.9 * x_t, jnp.full_like(x_t, 0.3)], axis=-1)

  model = Denoiser(
    apply=apply,
    params=(),
    schedule=SCHEDULE,
    shape=(8, 8, 1),
    learned_variance=True,
    prediction="v",
  )
  guided = antimemorization.guided(
    model, digits[:PROTECTED], **OFF | {"similarity": 1.0}
  )
  x, t = digits[:2], np.array([3, 700])
  want_eps, want = model.predict((), x, t)
  eps, fraction = guided.predict(guided.params, x, t)
  assert want is not None
  assert fraction is not None
  np.testing.assert_allclose(fraction, want, atol=1e-6)
  np.testing.assert_allclose(eps[1], want_eps[1], atol=1e-5)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(similarity=-1.0), "similarity=-1.0: expected 0 or more"),
    (dict(alpha=0.0), r"alpha=0.0: expected more than 0"),
    (dict(through="all"), "through='all': choose one of x0, network"),
    (dict(neighbours=99), "neighbours=99 of 60 references"),
    (dict(guidance=2.0), r"needs Denoiser\.null_cond"),
    (dict(references=np.zeros((9, 4, 4, 1))), r"references are \(4, 4, 1\)"),
    (dict(references=np.zeros((1, 8, 8, 1))), "give two or more"),
  ],
)
def test_what_cannot_be_is_named(digits, change, message):
  model = finite_set(digits[:9], SCHEDULE)
  options = {**OFF, "references": digits[:PROTECTED], **change}
  with pytest.raises(ValueError, match=message):
    antimemorization.guided(model, **options)


def test_deduplication_needs_conditions(digits):
  model = finite_set(digits[:6], SCHEDULE, labels=np.arange(6))
  with pytest.raises(ValueError, match="needs the references' conditions"):
    antimemorization.guided(
      model, digits[:PROTECTED], guidance=3.0, **OFF | {"deduplicate": 1.0}
    )
  guided = antimemorization.guided(
    model, digits[:PROTECTED], guidance=3.0, **OFF
  )
  with pytest.raises(ValueError, match=r"guidance=3.0 needs cond"):
    sampled(guided)

# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import arrays, keys
from diffmem.denoiser import Denoiser, finite_set, gaussian
from diffmem.diffusion import schedules, steppers
from diffmem.sample import chain as chains

SCHEDULE = schedules.linear(1000)
SHAPE = (4, 4, 1)
PLAIN = dict(stepper="ddim", steps=30, eta=0.0, guidance=1.0, clip=True)
LABELS = np.arange(16) % 4
KEY = keys.root(7)


@pytest.fixture(scope="module")
def pixels():
  return np.random.default_rng(0).integers(0, 256, (16, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def memorizer(pixels):
  return finite_set(arrays.from_uint8(pixels), SCHEDULE, labels=LABELS)


@pytest.fixture(scope="module")
def normal():
  rng = np.random.default_rng(1)
  axes = np.linalg.qr(rng.normal(size=(16, 16)))[0]
  values = np.geomspace(0.01, 0.5, 16)
  mean = rng.uniform(-0.3, 0.3, 16)
  cov = (axes * values) @ axes.T
  return mean, axes, values, gaussian(mean.reshape(SHAPE), cov, SCHEDULE)


@functools.cache
def sampler(denoiser, **options):
  """A jitted chain with PLAIN and options, compiled once for all tests."""
  return jax.jit(chains.chain(denoiser, **PLAIN | options))


def nearest(images, pixels):
  """(index, largest difference in grey levels) of the closest training row."""
  got = np.asarray(arrays.to_uint8(images)).astype(int)
  gaps = np.abs(got[:, None] - pixels[None].astype(int)).max(axis=(2, 3, 4))
  return gaps.argmin(axis=1), gaps.min(axis=1)


@pytest.mark.parametrize(
  ("stepper", "eta", "steps"),
  [
    ("ddim", 0.0, 30),
    ("ddpm_fixed_small", 0.0, 50),
    ("ddpm_fixed_large", 0.0, 1000),
  ],
)
def test_a_memorizer_returns_every_image_exactly(
  memorizer, pixels, stepper, eta, steps
):
  fn = sampler(memorizer, stepper=stepper, eta=eta, steps=steps)
  found, gap = nearest(fn(memorizer.params, np.arange(256), KEY), pixels)
  assert gap.max() == 0
  assert sorted(set(found)) == list(range(16))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_conditions_restrict_what_is_found(memorizer, pixels, guidance):
  fn = sampler(memorizer, guidance=guidance)
  cond = jnp.asarray(np.arange(128) % 4)
  found, gap = nearest(fn(memorizer.params, np.arange(128), KEY, cond), pixels)
  assert gap.max() == 0
  np.testing.assert_array_equal(LABELS[found], cond)
  assert len(set(found)) == 16


def expected_moments(values, mean_gap, stepper, steps):
  """The chain on a Gaussian in float64: it stays Gaussian, axis by axis."""
  times = schedules.respace(1000, steps)
  ab = np.append(1.0, SCHEDULE.alpha_bar[times])
  variance, gap = np.ones_like(values), mean_gap * np.sqrt(ab[-1])
  for now, then in zip(ab[:0:-1], ab[-2::-1], strict=True):
    gain = np.sqrt(1 - now) / (now * values + 1 - now)  # eps per x
    sigma2 = 0.0
    if stepper != "ddim":
      beta = 1 - now / then
      sigma2 = beta * (1 - then) / (1 - now)
    slope = np.sqrt(then / now) * (1 - np.sqrt(1 - now) * gain)
    slope += np.sqrt(1 - then - sigma2) * gain
    if then == 1.0 or stepper != "ddpm_fixed_large":
      variance = slope**2 * variance + sigma2
    else:
      variance = slope**2 * variance + beta
    gap = slope * gap
  return gap, variance


@pytest.mark.parametrize(
  ("stepper", "steps", "bias"),
  [
    ("ddim", 200, 0.13),
    ("ddpm_fixed_small", 500, 0.13),
    ("ddpm_fixed_large", 500, 0.05),
  ],
)
def test_a_gaussian_is_sampled_with_its_moments(normal, stepper, steps, bias):
  mean, axes, values, denoiser = normal
  fn = sampler(denoiser, stepper=stepper, steps=steps, clip=False)
  n = 4096
  x = np.asarray(fn(denoiser.params, np.arange(n), KEY), np.float64)
  along = (x.reshape(n, 16) - mean) @ axes
  gap, variance = expected_moments(values, -(mean @ axes), stepper, steps)
  # Five standard errors of a mean, of a variance and of a covariance.
  error = 5 / np.sqrt(n)
  assert (np.abs(along.mean(0) - gap) < error * np.sqrt(variance)).all()
  spread = np.sqrt(variance)
  correlation = np.cov(along.T) / spread[:, None] / spread
  assert (np.abs(np.diag(correlation) - 1) < error * np.sqrt(2)).all()
  others = correlation[~np.eye(16, dtype=bool)]
  assert np.abs(others).max() < error
  # What finitely many steps add to the truth.
  assert (np.abs(variance / values - 1) < bias).all()


@pytest.mark.parametrize(
  ("name", "clip"), [("ddim", True), ("ddpm_fixed_small", False)]
)
def test_the_loop_by_hand(normal, name, clip):
  """Twin of the chain: float64, one id at a time, its noise drawn alone."""
  mean, axes, values, denoiser = normal
  fn = sampler(denoiser, stepper=name, steps=6, eta=0.5, clip=clip)
  ids = np.array([3, 1000])
  got = fn(denoiser.params, ids, KEY)
  times = [0, 200, 400, 599, 799, 999]
  eta = 0.5 if name == "ddim" else 1.0
  for i, id_ in enumerate(ids):
    key = jax.random.fold_in(KEY, int(id_))
    x = jax.random.normal(keys.stream(key, "start"), SHAPE)
    x = np.asarray(x, np.float64).reshape(-1)
    for step in range(5, -1, -1):
      t = times[step]
      ab = SCHEDULE.alpha_bar[t]
      ab_u = SCHEDULE.alpha_bar[times[step - 1]] if step else 1.0
      gain = np.sqrt(1 - ab) / (ab * values + 1 - ab)
      eps = axes @ (gain * (axes.T @ (x - np.sqrt(ab) * mean)))
      x0 = (x - np.sqrt(1 - ab) * eps) / np.sqrt(ab)
      if clip:
        x0 = np.clip(x0, -1, 1)
        eps = (x - np.sqrt(ab) * x0) / np.sqrt(1 - ab)
      sigma = eta * np.sqrt((1 - ab_u) / (1 - ab) * (1 - ab / ab_u))
      z = jax.random.normal(keys.stream(key, "step", t), SHAPE)
      x = np.sqrt(ab_u) * x0 + np.sqrt(1 - ab_u - sigma**2) * eps
      x = x + sigma * np.asarray(z).reshape(-1)
    np.testing.assert_allclose(got[i].reshape(-1), x, atol=1e-3)


def test_noise_is_a_function_of_the_id():
  @jax.jit
  def noise(ids):
    id_keys = keys.per_id(KEY, ids)
    bits = jax.vmap(lambda k: jax.random.bits(keys.stream(k, "step", 5)))
    start = chains.start_noise(id_keys, SHAPE)
    step = chains.step_noise(id_keys, np.array(5), SHAPE)
    return bits(id_keys), start, step

  ids = np.arange(48)
  bits, start, step = noise(ids)
  assert np.abs(start - step).min() > 0
  order = np.random.default_rng(3).permutation(48)
  for rows in (order, ids[:7], ids[40:41]):
    parts = noise(rows)
    np.testing.assert_array_equal(parts[0], bits[rows])
    np.testing.assert_allclose(parts[1], start[rows], atol=1e-6)
    np.testing.assert_allclose(parts[2], step[rows], atol=1e-6)


def test_images_are_functions_of_the_id(memorizer):
  ddim = sampler(memorizer)
  whole = ddim(memorizer.params, np.arange(256), KEY)
  again = ddim(memorizer.params, np.arange(256), KEY)
  np.testing.assert_array_equal(again, whole)
  other = ddim(memorizer.params, np.arange(256), keys.root(8))
  assert np.abs(other - whole).mean() > 0.1
  levels = np.asarray(arrays.to_uint8(whole)).astype(int)
  close = []
  for rows in np.split(np.random.default_rng(4).permutation(256), 8):
    part = arrays.to_uint8(ddim(memorizer.params, rows, KEY))
    close.append(np.abs(np.asarray(part).astype(int) - levels[rows]) <= 1)
  assert np.mean(close) >= 0.999


def test_devices_make_the_same_images(memorizer):
  count = jax.local_device_count()
  assert count == 8
  ids = np.arange(256).reshape(count, -1)
  fn = chains.chain(memorizer, **PLAIN)
  pmapped = jax.pmap(fn, in_axes=(None, 0, None))
  many = np.asarray(pmapped(memorizer.params, ids, KEY)).reshape(256, *SHAPE)
  one = sampler(memorizer)(memorizer.params, np.arange(256), KEY)
  assert (np.abs(many - one) < 1 / 127.5).mean() >= 0.999


@pytest.mark.parametrize("name", ["ddim", "ddpm_fixed_small"])
def test_a_host_loop_does_what_the_scan_does(memorizer, name):
  options = dict(stepper=name, steps=5)
  scanned = sampler(memorizer, **options)(memorizer.params, np.arange(8), KEY)
  seen = []

  def eps(x_t, t, cond):
    x_t, t = np.asarray(x_t), np.asarray(t)  # fails on a tracer
    seen.append(t)
    return np.asarray(memorizer.eps(x_t, t, cond))

  outside = Denoiser(eps, SCHEDULE, SHAPE, traceable=False)
  looped = chains.chain(outside, **PLAIN | options)(None, np.arange(8), KEY)
  np.testing.assert_allclose(looped, scanned, atol=1e-4)
  assert [set(t.tolist()) for t in seen] == [{999}, {749}, {500}, {250}, {0}]
  assert all(t.shape == (8,) for t in seen)


def test_one_step_is_the_posterior_mean_of_noise(memorizer):
  fn = sampler(memorizer, steps=1)
  ids = np.arange(5)
  x = chains.start_noise(keys.per_id(KEY, ids), SHAPE)
  eps = memorizer.eps(x, np.full(5, 999))
  ab = SCHEDULE.alpha_bar[999]
  expected = (x - np.sqrt(1 - ab) * eps) / np.sqrt(ab)
  got = fn(memorizer.params, ids, KEY)
  np.testing.assert_allclose(got, np.clip(expected, -1, 1), atol=1e-4)


def test_learned_variance_spans_small_to_large(normal):
  *_, denoiser = normal

  def apply(params, x_t, t, cond):
    eps = denoiser.apply(params["oracle"], x_t, t, cond)
    v = jnp.broadcast_to(params["v"], eps.shape)
    return jnp.concatenate([eps, v], axis=-1)

  params = {"oracle": denoiser.params, "v": jnp.zeros((1, 1, 1, 1))}
  learned = Denoiser(
    schedule=SCHEDULE, shape=SHAPE, params=params, apply=apply,
    learned_variance=True,
  )  # fmt: skip
  few = functools.partial(sampler, steps=5, clip=False)
  fn, ids = few(learned, stepper="ddpm_learned"), np.arange(4)
  for v, name, eta in ((-1, "ddim", 1.0), (1, "ddpm_fixed_large", 0.0)):
    params["v"] = jnp.full((1, 1, 1, 1), float(v))
    expected = few(denoiser, stepper=name, eta=eta)(denoiser.params, ids, KEY)
    np.testing.assert_allclose(fn(params, ids, KEY), expected, atol=1e-3)


def test_it_draws_and_keeps_no_more_than_it_needs(memorizer):
  def traced(**options):
    fn = chains.chain(memorizer, **PLAIN | options)
    jaxpr = jax.make_jaxpr(fn)(memorizer.params, np.arange(4), KEY)
    [scan] = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    body = str(scan.params["jaxpr"])
    return [v.aval.shape for v in scan.outvars], body.count("random_bits")

  assert traced() == ([(4, *SHAPE)], 0)
  kept, draws = traced(stepper="ddpm_fixed_small")
  assert kept == [(4, *SHAPE)]
  assert draws > 0


def test_latents_are_decoded(memorizer):
  latent = Denoiser(
    schedule=SCHEDULE,
    shape=SHAPE,
    params=memorizer.params,
    apply=memorizer.apply,
    decode=lambda x: jnp.tile(x, (1, 2, 2, 1)),
  )
  images = sampler(latent, steps=1)(memorizer.params, np.arange(5), KEY)
  plain = sampler(memorizer, steps=1)(memorizer.params, np.arange(5), KEY)
  assert images.shape == (5, 8, 8, 1)
  np.testing.assert_allclose(images[:, :4, 4:], plain, atol=1e-5)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (dict(steps=1001), "1001 steps"),
    (dict(steps=0), "0 steps"),
    (dict(stepper="euler"), f"'euler'.*{', '.join(steppers.STEPPERS)}"),
    (dict(stepper="ddpm_learned"), "learned_variance"),
    (dict(eta=2.0), "eta=2.0"),
    (dict(guidance=2.0), r"guidance=2.0 needs Denoiser\.null_cond"),
  ],
)
def test_errors(normal, options, words):
  *_, denoiser = normal
  with pytest.raises(ValueError, match=words):
    chains.chain(denoiser, **PLAIN | options)


def test_guidance_without_a_condition_is_refused(memorizer):
  fn = chains.chain(memorizer, **PLAIN | dict(guidance=2.0))
  with pytest.raises(ValueError, match="needs cond"):
    fn(memorizer.params, np.arange(4), KEY)

# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffmem import arrays, keys, models
from diffmem.denoiser import Denoiser, finite_set, gaussian
from diffmem.diffusion import likelihood, schedules

SCHEDULE = schedules.linear(1000)
SHAPE = (4, 4, 1)
D = 16
KEY = keys.root(3)
IDS = np.arange(8)


@pytest.fixture(scope="module")
def normal():
  """(mean [d], cov [d d], its denoiser)."""
  rng = np.random.default_rng(1)
  axes = np.linalg.qr(rng.normal(size=(D, D)))[0]
  mean = rng.uniform(-0.3, 0.3, D)
  cov = (axes * np.geomspace(1e-3, 0.3, D)) @ axes.T
  return mean, cov, gaussian(mean.reshape(SHAPE), cov, SCHEDULE)


@pytest.fixture(scope="module")
def images(normal):
  mean, cov, _ = normal
  drawn = np.random.default_rng(2).multivariate_normal(mean, cov, len(IDS))
  return drawn.reshape(-1, *SHAPE).astype(np.float32)


def closed(normal, y, t):
  """The log of N(y; mean, cov + sigma_t^2 I), float64."""
  mean, cov, _ = normal
  noise = 1 / SCHEDULE.alpha_bar[t] - 1
  law = scipy.stats.multivariate_normal(mean, cov + noise * np.eye(D))
  return law.logpdf(y.reshape(len(y), -1).astype(np.float64))


def density(denoiser, **options):
  options = dict(steps=120, probes=None) | options
  fn = likelihood.log_density(denoiser.predict, denoiser.schedule, **options)
  return lambda y, ids, **more: fn(denoiser.params, y, ids, KEY, **more)


@pytest.mark.parametrize("t", [0, 20, 300])
def test_the_density_of_a_gaussian_is_its_closed_form(normal, images, t):
  noise = np.random.default_rng(4).normal(size=images.shape)
  y = images + np.sqrt(1 / SCHEDULE.alpha_bar[t] - 1) * noise
  found = density(normal[2], t=t)(y.astype(np.float32), IDS)
  gap = likelihood.bits(found, D) - likelihood.bits(closed(normal, y, t), D)
  assert np.abs(gap).max() < 0.01


def test_a_coarse_integral_is_coarse(normal, images):
  """The bound of the test above could fail."""
  truth = closed(normal, images, 0)
  errors = [
    np.abs(density(normal[2], steps=n)(images, IDS) - truth).max()
    for n in (8, 16, 120)
  ]
  assert errors[0] > errors[1] > errors[2]
  assert errors[0] / D / np.log(2) > 0.01


def test_probes_estimate_the_trace_without_bias(normal, images):
  """And their signs are a function of the id."""
  exact = density(normal[2], steps=20)(images, IDS)
  few = density(normal[2], steps=20, probes=2)
  order = np.random.default_rng(0).permutation(8)
  found = np.stack([few(images, IDS + 8 * i) for i in range(32)])
  error = found.std(0) / np.sqrt(32)
  assert (np.abs(found.mean(0) - exact) < 4 * error + 1e-3).all()
  assert (error > 0.01).all()
  moved = few(images[order], IDS[order])
  np.testing.assert_allclose(moved, found[0][order], rtol=1e-5)


def test_an_image_of_the_set_is_far_likelier(images):
  """Near a point of the set, p_0 is a narrow normal over n points."""
  inside = np.clip(images, -1, 1)
  oracle = finite_set(inside, SCHEDULE)
  sigma = np.sqrt(1 / SCHEDULE.alpha_bar[0] - 1)
  y = inside + sigma * np.random.default_rng(0).normal(size=inside.shape)
  found = density(oracle, steps=400)(y.astype(np.float32), IDS)
  gap = ((y - inside) ** 2).sum((1, 2, 3)) / (2 * sigma**2)
  truth = -gap - D / 2 * np.log(2 * np.pi * sigma**2) - np.log(len(IDS))
  error = (found - truth) / D / np.log(2)
  assert np.abs(error).max() < 0.05
  outside = density(oracle, steps=400)(-inside, IDS)
  assert (outside < found - 20 * D).all()


def test_networks_can_be_asked():
  """Also those that define reverse derivatives alone."""
  knobs = dict(multipliers=(1,), attention=(), heads=1, groups=4)
  model = models.create(
    "unet", shape=SHAPE, num_classes=2, width=8, blocks=1, **knobs
  )

  def moved(x):  # the last layer starts at zero
    return x + 0.03 * jnp.cos(jnp.arange(x.size)).reshape(x.shape)

  denoiser = Denoiser(
    schedule=schedules.linear(20, end=0.3),
    shape=SHAPE,
    params=jax.tree.map(moved, model.init(jax.random.key(0))),
    apply=model.apply,
    null_cond=2,
    num_classes=2,
  )
  fn = density(denoiser, steps=2, probes=1)
  y, ids = np.zeros((2, *SHAPE), np.float32), np.zeros(2, int)
  one, other = fn(y, ids, cond=np.array([0, 1], np.int32))
  assert np.isfinite([one, other]).all()
  assert abs(one - other) > 1e-3  # the condition is heard
  again = fn(y, ids, cond=np.array([1, 1], np.int32))
  np.testing.assert_allclose(again, [other, other], rtol=1e-5)


def naive_bound(normal, x0, large):
  """E of L_1 + ... + L_T of a diagonal normal's own denoiser, in bits."""
  mean, values = normal
  ab, betas = SCHEDULE.alpha_bar, SCHEDULE.betas
  total = 0.5 * (ab[-1] * x0**2 - ab[-1] - np.log1p(-ab[-1]))
  for t in range(1, SCHEDULE.steps):
    a2, s2 = ab[t], 1 - ab[t]
    gain = np.sqrt(a2) * values / (a2 * values + s2)
    error = ((1 - gain * np.sqrt(a2)) * (x0 - mean)) ** 2 + gain**2 * s2
    tilde = betas[t] * (1 - ab[t - 1]) / s2
    used = betas[t] if large else tilde
    gap = np.sqrt(ab[t - 1]) * betas[t] / s2
    ratio = tilde / used
    total += 0.5 * (ratio - 1 - np.log(ratio) + gap**2 * error / used)
  return total.mean(1) / np.log(2)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_bound_is_the_expected_one(variance):
  """L_0 is read off a denoiser that knows x0: its other terms are known."""
  rng = np.random.default_rng(5)
  mean, values = rng.uniform(-0.3, 0.3, D), np.geomspace(0.01, 0.3, D)
  oracle = gaussian(mean.reshape(SHAPE), np.diag(values), SCHEDULE)
  one = mean + np.sqrt(values) * rng.normal(size=(1, D))
  x0 = arrays.from_uint8(arrays.to_uint8(jnp.asarray(one.reshape(1, *SHAPE))))
  flat = np.asarray(x0, np.float64).reshape(1, D)
  copies = jnp.tile(x0, (256, 1, 1, 1))
  found, knowing = (
    np.asarray(
      jax.jit(
        likelihood.elbo(predict, SCHEDULE, variance=variance, clip=False)
      )(oracle.params, copies, np.arange(256), KEY)
    )
    for predict in (oracle.predict, _knows(copies, oracle))
  )
  large = variance == "fixed_large"
  expected = naive_bound((mean, values), flat, large)
  error = knowing.std() / np.sqrt(256)
  assert error < 0.03
  # A denoiser that knows x0 at t = 0: there L_0 does not depend on noise.
  last = _last(flat, large)
  assert abs(knowing.mean() - expected - last) < 4 * error
  sd = np.sqrt(values)
  cells = [scipy.stats.norm.cdf(flat + h / 255, mean, sd) for h in (-1, 1)]
  truth = -np.log2(cells[1] - cells[0]).mean()
  assert found.mean() > truth  # a bound
  if large:  # a close one, where the data are as broad as it supposes
    assert found.mean() < truth + 0.1


def _last(x0, large):
  """Bits of x0 in a normal around it, in its grey level; none at an end."""
  assert np.abs(x0).max() < 0.999
  ab, betas = SCHEDULE.alpha_bar, SCHEDULE.betas
  tilde = betas[1] * (1 - ab[0]) / (1 - ab[1])
  sd = np.sqrt(betas[0] if large else tilde)
  return -np.log2(scipy.stats.norm.cdf(1 / 255 / sd) * 2 - 1)


def _knows(x0, other):
  """Predicts the true noise at t = 0, else as the other."""

  def predict(params, x_t, t, cond):
    a = np.sqrt(SCHEDULE.alpha_bar[0])
    truth = (x_t - a * x0) / np.sqrt(1 - SCHEDULE.alpha_bar[0])
    guess = other.predict(params, x_t, t, cond)[0]
    return jnp.where((t == 0)[:, None, None, None], truth, guess), None

  return predict


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (dict(steps=0), "steps=0"),
    (dict(probes=0), "probes=0"),
    (dict(t=1000), "t=1000 is outside"),
  ],
)
def test_errors(normal, options, words):
  with pytest.raises(ValueError, match=words):
    density(normal[2], **options)


def test_the_bound_s_errors(normal, images):
  oracle = normal[2]
  with pytest.raises(ValueError, match="unknown variance 'large'"):
    likelihood.elbo(oracle.predict, SCHEDULE, variance="large", clip=True)
  fn = likelihood.elbo(oracle.predict, SCHEDULE, variance="learned", clip=True)
  with pytest.raises(ValueError, match="learned_variance"):
    fn(oracle.params, images, IDS, KEY)

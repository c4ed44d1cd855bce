# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import arrays
from diffmem.denoiser import finite_set, gaussian
from diffmem.diffusion import schedules

SCHEDULE = schedules.linear(1000)
TIMES = np.array([0, 10, 100, 400, 999])
SHAPE = (4, 4, 1)
LABELS = np.arange(24) % 3


@pytest.fixture(scope="module")
def images():
  pixels = np.random.default_rng(0).integers(0, 256, (24, *SHAPE))
  return np.asarray(arrays.from_uint8(pixels.astype(np.uint8)))


@pytest.fixture(scope="module")
def noised(images):
  """Each image at each of TIMES, [len(TIMES), 24, ...]."""
  eps = np.random.default_rng(1).normal(size=(len(TIMES), *images.shape))
  ab = SCHEDULE.alpha_bar[TIMES][:, None, None, None, None]
  return (np.sqrt(ab) * images + np.sqrt(1 - ab) * eps).astype(np.float32)


@pytest.fixture(scope="module")
def normal():
  rng = np.random.default_rng(2)
  root = rng.normal(size=(16, 12)) / 8  # singular: rank 12 of 16
  return rng.uniform(-0.5, 0.5, SHAPE), root @ root.T


def naive_eps(images, x_t, t):
  """Of one x_t, in float64, from the definition."""
  ab = SCHEDULE.alpha_bar[t]
  y = images.reshape(len(images), -1).astype(np.float64)
  x = x_t.reshape(-1).astype(np.float64)
  exponent = -((x - np.sqrt(ab) * y) ** 2).sum(1) / (2 * (1 - ab))
  weights = np.exp(exponent - exponent.max())
  x0 = weights @ y / weights.sum()
  return ((x - np.sqrt(ab) * x0) / np.sqrt(1 - ab)).reshape(x_t.shape)


@pytest.mark.parametrize("row", range(len(TIMES)))
def test_finite_set_is_the_posterior_mean(images, noised, row):
  denoiser = finite_set(images, SCHEDULE)
  t = np.full(len(images), TIMES[row])
  eps = denoiser.eps(noised[row], t, None)
  expected = [naive_eps(images, x, TIMES[row]) for x in noised[row]]
  np.testing.assert_allclose(eps, expected, atol=2e-4)


@pytest.mark.parametrize("t", [0, 3])
def test_finite_set_tells_near_duplicates_apart(images, t):
  # Two images one grey level apart in four pixels, and points between them.
  twin = images[:1].copy()
  twin[0, 0] += 2 / 255 * np.where(twin[0, 0] > 0, -1, 1)
  pair = np.concatenate([images, twin])
  mixed = np.linspace(0, 1, 9, dtype=np.float32)[:, None, None, None]
  x_t = images[:1] + mixed * (twin - images[:1])
  eps = finite_set(pair, SCHEDULE).eps(x_t, np.full(9, t), None)
  expected = [naive_eps(pair, x, t) for x in x_t]
  np.testing.assert_allclose(eps, expected, atol=0.02)


def test_finite_set_is_the_score(images, noised):
  denoiser = finite_set(images, SCHEDULE)

  def log_density(x, t):
    ab = jnp.asarray(SCHEDULE.alpha_bar, jnp.float32)[t]
    gap = ((x[None] - jnp.sqrt(ab) * images) ** 2).sum(axis=(1, 2, 3))
    return jax.nn.logsumexp(-gap / (2 * (1 - ab)))

  score = jax.jit(jax.vmap(jax.grad(log_density)))
  for row in (2, 3, 4):
    t = np.full(len(images), TIMES[row])
    noise = np.sqrt(1 - SCHEDULE.alpha_bar[TIMES[row]])
    eps = denoiser.eps(noised[row], t, None)
    np.testing.assert_allclose(eps, -noise * score(noised[row], t), atol=2e-3)


def test_labels_restrict_the_set(images, noised):
  denoiser = finite_set(images, SCHEDULE, labels=LABELS)
  assert (denoiser.null_cond, denoiser.num_classes) == (3, 3)
  row = 3
  t = np.full(len(images), TIMES[row])
  plain = finite_set(images, SCHEDULE).eps(noised[row], t, None)
  for label in range(3):
    eps = denoiser.eps(noised[row], t, jnp.full(24, label))
    few = finite_set(images[label == LABELS], SCHEDULE)
    expected = few.eps(noised[row], t, None)
    np.testing.assert_allclose(eps, expected, atol=1e-3)
    assert np.abs(eps - plain).max() > 0.01
  for cond in (None, jnp.full(24, 3)):
    eps = denoiser.eps(noised[row], t, cond)
    np.testing.assert_allclose(eps, plain, atol=1e-6)


@pytest.mark.parametrize("t", TIMES)
def test_gaussian_is_the_score(normal, noised, t):
  mean, cov = normal
  denoiser = gaussian(mean, cov, SCHEDULE)
  x = noised[3]
  eps = denoiser.eps(x, np.full(len(x), t), None)
  ab = SCHEDULE.alpha_bar[t]
  sigma = ab * cov + (1 - ab) * np.eye(16)
  gap = x.reshape(len(x), -1) - np.sqrt(ab) * mean.reshape(-1)
  expected = np.sqrt(1 - ab) * np.linalg.solve(sigma, gap.T).T
  np.testing.assert_allclose(
    eps, expected.reshape(x.shape), rtol=1e-3, atol=2e-2 if t == 0 else 1e-3
  )


def test_gaussian_score_by_autodiff(normal, noised):
  mean, cov = normal
  denoiser = gaussian(mean, cov, SCHEDULE)
  ab = SCHEDULE.alpha_bar[400]
  sigma = ab * cov + (1 - ab) * np.eye(16)

  def log_density(x):
    return jax.scipy.stats.multivariate_normal.logpdf(
      x.reshape(-1), jnp.asarray(np.sqrt(ab) * mean.reshape(-1)), sigma
    )

  score = jax.jit(jax.vmap(jax.grad(log_density)))(noised[3])
  eps = denoiser.eps(noised[3], np.full(24, 400), None)
  np.testing.assert_allclose(eps, -np.sqrt(1 - ab) * score, atol=1e-3)


def test_images_are_params(images, noised):
  one, other = (finite_set(y, SCHEDULE) for y in (images[:12], images[12:]))
  t = np.full(24, 400)
  eps, fraction = one.predict(other.params, noised[3], t)
  assert fraction is None
  np.testing.assert_array_equal(eps, other.eps(noised[3], t))


@pytest.mark.parametrize(
  ("make", "words"),
  [
    (lambda y: finite_set(arrays.to_uint8(y), SCHEDULE), "from_uint8"),
    (lambda y: finite_set(127.5 * y, SCHEDULE), r"\[-1, 1\]"),
    (lambda y: finite_set(np.full_like(y, np.nan), SCHEDULE), "nan"),
    (lambda y: finite_set(y[:0], SCHEDULE), "0 images"),
    (lambda y: finite_set(y[0], SCHEDULE), r"\[n h w c\]"),
    (lambda y: finite_set(y, SCHEDULE, labels=LABELS[:5]), "5 labels for 24"),
    (lambda y: finite_set(y, SCHEDULE, labels=LABELS + 1), "without gaps"),
    (lambda y: gaussian(y[0], np.eye(15), SCHEDULE), r"\(15, 15\)"),
    (lambda y: gaussian(y[0], -np.eye(16), SCHEDULE), "negative eigenvalue"),
    (lambda y: gaussian(y[0], np.tri(16), SCHEDULE), "not symmetric"),
  ],
)
def test_errors(images, make, words):
  with pytest.raises(ValueError, match=words) as error:
    make(jnp.asarray(images))
  assert "\n" not in str(error.value)

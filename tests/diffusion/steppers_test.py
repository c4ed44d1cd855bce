# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest

from diffmem.diffusion import process, schedules, steppers

SCHEDULE = schedules.linear(100, end=0.1)
TIMES = schedules.respace(100, 12)
ROWS = (0, 5, 10, 11)


@pytest.fixture(scope="module")
def draws():
  rng = np.random.default_rng(1)
  shape = (3, 4, 4, 1)
  x_t, eps, z = rng.normal(size=(3, *shape)).astype(np.float32)
  return x_t, eps, z, rng.uniform(size=shape).astype(np.float32)


def at(row):
  table = process.reverse(SCHEDULE.alpha_bar, TIMES)
  return jax.tree.map(lambda column: column[row], table)


def between(row):
  alpha_bar = np.append(1.0, SCHEDULE.alpha_bar[TIMES])[::-1]
  return alpha_bar[row], alpha_bar[row + 1]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.4])
def test_ddim_is_equation_12(draws, row, clip, eta):
  x_t, eps, z, _ = draws
  ab, ab_u = between(row)
  x0 = (x_t - np.sqrt(1 - ab) * eps) / np.sqrt(ab)
  if clip:
    x0 = np.clip(x0, -1, 1)
    eps_hat = (x_t - np.sqrt(ab) * x0) / np.sqrt(1 - ab)
  else:
    eps_hat = eps
  sigma = eta * np.sqrt((1 - ab_u) / (1 - ab)) * np.sqrt(1 - ab / ab_u)
  expected = np.sqrt(ab_u) * x0 + sigma * z
  expected += np.sqrt(1 - ab_u - sigma**2) * eps_hat
  stepper = steppers.create("ddim", eta=eta)
  assert stepper.noisy == (eta > 0)
  noise = z if stepper.noisy else None
  got = stepper.step(x_t, eps, at(row), noise, None, clip)
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned"])
def test_ddpm_is_the_posterior_with_its_variance(draws, row, variance):
  x_t, eps, z, fraction = draws
  ab, ab_u = between(row)
  beta = 1 - ab / ab_u
  tilde = beta * (1 - ab_u) / (1 - ab)
  x0 = np.clip((x_t - np.sqrt(1 - ab) * eps) / np.sqrt(ab), -1, 1)
  mean = np.sqrt(ab_u) * beta / (1 - ab) * x0
  mean += np.sqrt(1 - beta) * (1 - ab_u) / (1 - ab) * x_t
  stepper = steppers.create(f"ddpm_{variance}", eta=0.0)
  assert stepper.noisy
  assert stepper.learned == (variance == "learned")
  got = stepper.step(x_t, eps, at(row), z, fraction, True)
  if ab_u == 1.0:
    expected = x0  # no noise on the image itself
  else:
    spread = {
      "fixed_small": tilde,
      "fixed_large": beta,
      "learned": beta**fraction * tilde ** (1 - fraction),
    }[variance]
    expected = mean + np.sqrt(spread) * z
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clip", [False, True])
def test_ddim_with_eta_one_is_ddpm_fixed_small(draws, clip):
  x_t, eps, z, _ = draws
  ddim = steppers.create("ddim", eta=1.0)
  ddpm = steppers.create("ddpm_fixed_small", eta=0.0)
  for row in range(len(TIMES)):
    np.testing.assert_allclose(
      ddim.step(x_t, eps, at(row), z, None, clip),
      ddpm.step(x_t, eps, at(row), z, None, clip),
      rtol=1e-4,
      atol=2e-5,
    )


def test_transport_is_ddim_and_returns(draws):
  x_t, eps, _, _ = draws
  ab = SCHEDULE.alpha_bar
  t, u = TIMES[[-1, 5, 1]], TIMES[[-2, 4, 0]]
  down = steppers.transport(x_t, eps, t, u, ab)
  ddim = steppers.create("ddim", eta=0.0)
  for i, row in enumerate((0, 6, 10)):
    step = ddim.step(x_t, eps, at(row), None, None, False)
    np.testing.assert_allclose(down[i], step[i], rtol=1e-5, atol=1e-5)
  back = steppers.transport(down, eps, u, t, ab)
  np.testing.assert_allclose(back, x_t, atol=1e-4)
  # With the true eps, noise levels are moved between exactly.
  x0 = np.clip(x_t, -1, 1)
  moved = steppers.transport(process.add_noise(x0, eps, u, ab), eps, u, t, ab)
  expected = process.add_noise(x0, eps, t, ab)
  np.testing.assert_allclose(moved, expected, atol=1e-5)


@pytest.mark.parametrize(
  ("name", "eta", "words"),
  [
    ("euler", 0.0, "'euler'.*ddim, ddpm_fixed_small"),
    ("ddim", 1.5, "eta=1.5"),
    ("ddim", -0.1, "eta=-0.1"),
  ],
)
def test_errors(name, eta, words):
  with pytest.raises(ValueError, match=words):
    steppers.create(name, eta=eta)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.995])
def test_dynamic_thresholding_is_each_images_own_quantile(draws, p):
  x_t, eps, *_ = draws
  x_t, eps = x_t.copy(), eps.copy()
  x_t[0], eps[0] = x_t[0] / 100, eps[0] / 100  # stays as it is
  ab, _ = between(3)
  to = jax.tree.map(
    lambda column: column[3], process.reverse(SCHEDULE.alpha_bar, TIMES)
  )
  x0 = (x_t - np.sqrt(1 - ab) * eps) / np.sqrt(ab)
  want = np.empty_like(x0)
  for i, image in enumerate(x0):
    q = max(1.0, np.percentile(np.abs(image), 100 * p))
    want[i] = np.clip(image, -q, q) / q
  got, made = steppers.clean(x_t, eps, to, p)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    made, (x_t - np.sqrt(ab) * got) / np.sqrt(1 - ab), rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(got[0], x0[0], rtol=1e-4, atol=1e-5)
  assert np.abs(got).max() <= 1.0


@pytest.mark.parametrize("clip", [0.0, 1.5, -0.1])
def test_a_quantile_must_be_one(clip):
  with pytest.raises(ValueError, match="choose True, False, or"):
    steppers.check_clip(clip)

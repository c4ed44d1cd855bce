# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffmem.diffusion import losses, process, schedules

T = 40
SCHEDULE = schedules.linear(T, end=0.2)
TIMES = np.array([0, 0, 1, 5, T - 1])


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(2)
  pixels = rng.integers(0, 256, (5, 4, 4, 2))
  pixels[0, 0, 0], pixels[1, 1, 1] = 0, 255
  x0 = (pixels / 127.5 - 1).astype(np.float32)
  eps, error = rng.normal(size=(2, *x0.shape)).astype(np.float32)
  return x0, eps, 0.3 * error


@pytest.mark.parametrize("prediction", process.PREDICTIONS)
def test_mse_is_the_mean_square_of_the_error(batch, prediction):
  x0, eps, error = batch
  ab = SCHEDULE.alpha_bar[TIMES][:, None, None, None]
  v = np.sqrt(ab) * eps - np.sqrt(1 - ab) * x0
  target = {"eps": eps, "x0": x0, "v": v}[prediction]
  seen = []

  def apply_fn(x_t, t, cond):
    seen.append((x_t, t, cond))
    return target + error

  loss = losses.denoising_loss(
    apply_fn,
    x0,
    TIMES,
    eps,
    "label",
    schedule=SCHEDULE,
    prediction=prediction,
    loss="mse",
  )
  np.testing.assert_allclose(loss, (error**2).reshape(5, -1).mean(1), rtol=2e-4)
  [(x_t, t, cond)] = seen
  assert cond == "label"
  assert t is TIMES
  np.testing.assert_allclose(
    x_t, np.sqrt(ab) * x0 + np.sqrt(1 - ab) * eps, atol=1e-6
  )


def naive_bits(x0, x_t, t, x0_hat, fraction):
  """L_t of one example in float64, by the book."""
  ab = np.append(1.0, SCHEDULE.alpha_bar)
  beta = SCHEDULE.betas
  tilde = beta * (1 - ab[:-1]) / (1 - ab[1:])
  tilde[0] = tilde[1]
  first = np.sqrt(ab[t]) * beta[t] / (1 - ab[t + 1])
  second = np.sqrt(1 - beta[t]) * (1 - ab[t]) / (1 - ab[t + 1])
  mean, true = first * x0_hat + second * x_t, first * x0 + second * x_t
  variance = beta[t] ** fraction * tilde[t] ** (1 - fraction)
  if t:
    nats = np.log(np.sqrt(variance / tilde[t])) - 0.5
    nats += (tilde[t] + (true - mean) ** 2) / (2 * variance)
    return nats.mean() / np.log(2)
  normal = stats.norm(mean, np.sqrt(variance))
  high = np.where(x0 > 0.999, np.inf, x0 + 1 / 255)
  low = np.where(x0 < -0.999, -np.inf, x0 - 1 / 255)
  return -np.log2(normal.cdf(high) - normal.cdf(low)).mean()


def hybrid(network, batch):
  x0, eps, _ = batch
  return losses.denoising_loss(
    lambda x_t, t, cond: network, x0, TIMES, eps, None,
    schedule=SCHEDULE, prediction="eps", loss="hybrid",
  )  # fmt: skip


def test_hybrid_is_mse_plus_the_bound(batch):
  x0, eps, error = batch
  error = 0.1 * error
  v = np.random.default_rng(3).uniform(-1, 1, x0.shape).astype(np.float32)
  loss = hybrid(jnp.concatenate([eps + error, v], axis=-1), batch)
  x_t = np.asarray(process.add_noise(x0, eps, TIMES, SCHEDULE.alpha_bar))
  for i, t in enumerate(TIMES):
    ab = SCHEDULE.alpha_bar[t]
    x0_hat = x0[i] - np.sqrt(1 - ab) * error[i] / np.sqrt(ab)
    bits = naive_bits(
      *(a.astype(np.float64) for a in (x0[i], x_t[i])),
      t,
      x0_hat.astype(np.float64),
      (v[i].astype(np.float64) + 1) / 2,
    )
    expected = (error[i] ** 2).mean() + 0.001 * T * bits
    np.testing.assert_allclose(loss[i], expected, rtol=1e-3)


def test_hybrid_trains_the_mean_by_mse_alone(batch):
  x0, eps, error = batch

  def total(prediction, v):
    return hybrid(jnp.concatenate([prediction, v], axis=-1), batch).sum()

  prediction, v = jnp.asarray(eps + error), jnp.zeros(x0.shape)
  for_mean, for_variance = jax.jit(jax.grad(total, argnums=(0, 1)))(
    prediction, v
  )
  np.testing.assert_allclose(
    for_mean, 2 * error / error[0].size, rtol=1e-3, atol=1e-6
  )
  assert (np.abs(for_variance).sum(axis=(1, 2, 3)) > 0).all()
  assert np.isfinite(for_variance).all()


def test_loss_does_not_depend_on_the_others_in_the_batch(batch):
  x0, eps, _ = batch

  def loss(rows):
    return losses.denoising_loss(
      lambda x_t, t, cond: 0.5 * x_t, x0[rows], TIMES[rows], eps[rows],
      schedule=SCHEDULE,
    )  # fmt: skip

  np.testing.assert_array_equal(loss([0, 1, 2, 3, 4])[2:3], loss([2]))


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (dict(loss="huber"), "'huber'.*mse, hybrid"),
    (dict(prediction="score"), "'score'.*eps, x0, v"),
    (dict(loss="hybrid"), "4 channels.*learned_variance"),
  ],
)
def test_errors(batch, options, words):
  x0, eps, _ = batch
  with pytest.raises(ValueError, match=words):
    losses.denoising_loss(
      lambda x_t, t, cond: x_t, x0, TIMES, eps, schedule=SCHEDULE, **options
    )

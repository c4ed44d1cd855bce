# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from diffmem.diffusion import process, schedules

T = 100
SCHEDULE = schedules.linear(T, end=0.1)


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  x0 = rng.uniform(-1, 1, (5, 4, 4, 1)).astype(np.float32)
  eps = rng.normal(size=x0.shape).astype(np.float32)
  t = np.array([0, 1, 20, 60, T - 1])
  return x0, eps, t


def test_add_noise_is_the_definition(batch):
  x0, eps, t = batch
  x_t = process.add_noise(x0, eps, t, SCHEDULE.alpha_bar)
  for i in range(len(t)):
    ab = SCHEDULE.alpha_bar[t[i]]
    expected = np.sqrt(ab) * x0[i] + np.sqrt(1 - ab) * eps[i]
    np.testing.assert_allclose(x_t[i], expected, atol=1e-6)


@pytest.mark.parametrize(
  ("source", "target"),
  list(itertools.product(process.PREDICTIONS, repeat=2)),
)
def test_convert_agrees_with_the_truth(batch, source, target):
  x0, eps, t = batch
  ab = SCHEDULE.alpha_bar[t][:, None, None, None]
  truth = {"x0": x0, "eps": eps, "v": np.sqrt(ab) * eps - np.sqrt(1 - ab) * x0}
  x_t = process.add_noise(x0, eps, t, SCHEDULE.alpha_bar)
  got = process.convert(
    truth[source], x_t, t, SCHEDULE.alpha_bar, source=source, target=target
  )
  np.testing.assert_allclose(got, truth[target], atol=1e-4)


def test_small_noise_keeps_its_digits():
  # 1 - ab in float32 would be wrong in the fourth digit here.
  schedule = schedules.linear(1000)
  _, noise = process.levels(np.array([0]), schedule.alpha_bar)
  np.testing.assert_allclose(noise, 0.01, rtol=1e-6)


def test_convert_refuses_unknown_names(batch):
  x0, eps, t = batch
  with pytest.raises(ValueError, match=r"'noise'.*eps, x0, v"):
    process.convert(x0, eps, t, SCHEDULE.alpha_bar, source="noise", target="x0")


@pytest.mark.parametrize("times", [np.arange(T), np.array([0, 7, 40, T - 1])])
def test_reverse_is_the_gaussian_posterior(times):
  # Bayes' rule in precisions: q(x_u | x0) times q(x_t | x_u).
  table = process.reverse(SCHEDULE.alpha_bar, times)
  assert table.t.tolist() == times[::-1].tolist()
  for row, (t, u) in enumerate(itertools.pairwise(times[::-1])):
    ab_t, ab_u = SCHEDULE.alpha_bar[t], SCHEDULE.alpha_bar[u]
    beta = 1 - ab_t / ab_u
    precision = 1 / (1 - ab_u) + (1 - beta) / beta
    np.testing.assert_allclose(
      np.exp(table.log_tilde[row]), 1 / precision, rtol=1e-5
    )
    np.testing.assert_allclose(
      table.from_x0[row], np.sqrt(ab_u) / (1 - ab_u) / precision, rtol=1e-5
    )
    np.testing.assert_allclose(
      table.from_xt[row], np.sqrt(1 - beta) / beta / precision, rtol=1e-5
    )
    np.testing.assert_allclose(np.exp(table.log_beta[row]), beta, rtol=1e-5)
  assert table.noisy.tolist() == [1.0] * (len(times) - 1) + [0.0]
  assert (table.from_x0[-1], table.from_xt[-1]) == (1.0, 0.0)
  assert (table.next_signal[-1], table.next_noise[-1]) == (1.0, 0.0)
  assert table.log_tilde[-1] == table.log_tilde[-2]
  if len(times) == T:
    np.testing.assert_allclose(
      np.exp(table.log_beta)[::-1], SCHEDULE.betas, rtol=1e-5
    )

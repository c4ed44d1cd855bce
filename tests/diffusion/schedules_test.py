# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from diffmem.diffusion import schedules


def test_linear_is_ddpm():
  schedule = schedules.linear()
  assert schedule.steps == 1000
  assert schedule.betas[0] == 1e-4
  assert schedule.betas[-1] == 0.02
  assert schedule.betas.dtype == schedule.alpha_bar.dtype == np.float64
  product = 1.0
  for beta, alpha_bar in zip(schedule.betas, schedule.alpha_bar, strict=True):
    product *= 1.0 - beta
    np.testing.assert_allclose(alpha_bar, product, rtol=1e-12)
  np.testing.assert_allclose(schedule.alpha_bar[-1], 4.036e-5, rtol=1e-3)


def test_cosine_is_equation_17():
  schedule = schedules.cosine(steps=4000)

  def f(t):
    return np.cos((t / 4000 + 0.008) / 1.008 * np.pi / 2) ** 2

  for t in (0, 1, 1000, 3000):
    expected = f(t + 1) / f(0)
    np.testing.assert_allclose(schedule.alpha_bar[t], expected, rtol=1e-9)
  assert schedule.betas.max() == 0.999
  assert schedule.alpha_bar[-1] > 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 999, 1000])
@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_respace_has_both_ends_and_no_repeats(count, spacing):
  times = schedules.respace(1000, count, spacing)
  assert len(times) == count
  assert times[-1] == 999
  assert count == 1 or times[0] == 0
  assert (np.diff(times) > 0).all()


def test_respace_as_improved_diffusion():
  times = schedules.respace(1000, 50)
  expected = [int(i * 999 / 49 + 0.5) for i in range(50)]
  assert times.tolist() == expected
  assert schedules.respace(8, 8).tolist() == list(range(8))


def test_schedules_compare_by_value():
  assert schedules.linear(10) == schedules.create("linear", steps=10)
  assert hash(schedules.linear(10)) == hash(schedules.linear(10))
  assert schedules.linear(10) != schedules.linear(11)
  assert schedules.linear(10) != schedules.linear(10, end=0.03)
  with pytest.raises(ValueError, match="read-only"):
    schedules.linear(10).betas[0] = 0.5


@pytest.mark.parametrize(
  ("make", "words"),
  [
    (lambda: schedules.respace(10, 11), "11 steps.*has 10"),
    (lambda: schedules.respace(10, 0), "0 steps"),
    (lambda: schedules.respace(10, 5, "even"), "'even'.*uniform, quadratic"),
    (lambda: schedules.create("sigmoid"), "'sigmoid'.*linear, cosine"),
    (lambda: schedules.linear(0), "steps=0"),
    (lambda: schedules.linear(10).check(3, 10), "t=10.*0 to 9"),
    (lambda: schedules.Schedule("mine", np.array([0.1, 1.0])), "strictly"),
    (lambda: schedules.Schedule("mine", np.array([])), "row"),
  ],
)
def test_errors(make, words):
  with pytest.raises(ValueError, match=words) as error:
    make()
  assert "\n" not in str(error.value)

# SPDX-License-Identifier: Apache-2.0
"""Epsilon of DP-SGD against dp_accounting, closed forms and its other bound."""

import dp_accounting
import numpy as np
import pytest

from diffmem.train import accounting

SMALL = dict(rate=0.01, steps=1000, delta=1e-5)


def _rdp(sigma, *, rate, steps, delta):
  accountant = dp_accounting.rdp.RdpAccountant()
  event = dp_accounting.GaussianDpEvent(sigma)
  event = dp_accounting.PoissonSampledDpEvent(rate, event)
  accountant.compose(dp_accounting.SelfComposedDpEvent(event, steps))
  return accountant.get_epsilon(delta)


def test_a_golden_value():
  """Q = .01, sigma = 1.1, 1,000 steps, delta = 1e-5."""
  assert accounting.epsilon(1.1, **SMALL) == pytest.approx(1.515, abs=2e-3)


def test_it_is_tighter_than_renyi_divergences():
  """Another accountant's upper bound of the same steps, within a quarter."""
  ours, other = accounting.epsilon(1.1, **SMALL), _rdp(1.1, **SMALL)
  assert 0.75 * other < ours < other


def test_without_sampling_it_is_the_gaussian_mechanism():
  """Balle & Wang 2018, theorem 8: T steps are one with sigma / sqrt(T)."""
  exact = dp_accounting.get_epsilon_gaussian(5.0 / np.sqrt(16), 1e-5)
  found = accounting.epsilon(5.0, rate=1.0, steps=16, delta=1e-5)
  assert exact - 1e-6 <= found <= exact * 1.002


def test_a_group_without_sampling_is_a_larger_clip():
  """Copies that are all in every batch are one row of norm k C."""
  one = accounting.epsilon(2.0, rate=1.0, steps=4, delta=1e-5)
  group = accounting.epsilon(6.0, rate=1.0, steps=4, delta=1e-5, copies=3)
  assert one <= group <= 1.01 * one


def test_a_group_is_worse_than_a_row_and_better_than_rows_composed():
  """Against (1 - q) N(0) + q N(k): as if its copies came all or none."""
  options = dict(rate=0.05, steps=10, delta=1e-5)
  one = accounting.epsilon(2.0, **options)
  two = accounting.epsilon(2.0, **options, copies=2)
  five = accounting.epsilon(2.0, **options, copies=5)
  assert one < two < five
  # The general bound of groups costs delta as well: more than 5 epsilon.
  together = accounting.epsilon(2.0 / 5, rate=0.05 * 5, steps=10, delta=1e-5)
  assert five < together


def test_no_noise_is_not_private():
  assert accounting.epsilon(0.0, **SMALL) == np.inf


def test_noise_is_solved_for():
  sigma = accounting.noise_for(6.0, **SMALL)
  assert accounting.epsilon(sigma, **SMALL) <= 6.0
  assert accounting.epsilon(sigma / 1.002, **SMALL) > 6.0


@pytest.mark.parametrize(
  ("target", "message"),
  [
    (0.0, "epsilon=0.0 is out of reach"),
    (1e-4, "take fewer steps, a smaller batch, or a larger epsilon"),
    (1e4, "give noise_multiplier instead"),
  ],
)
def test_an_epsilon_out_of_reach_is_refused(target, message):
  options = dict(rate=0.5, steps=1000, delta=1e-9)
  with pytest.raises(ValueError, match=message):
    accounting.noise_for(target, **options)


@pytest.mark.parametrize(
  "change", [{"rate": 1.5}, {"delta": 0.0}, {"steps": 0}, {"copies": 0}]
)
def test_arguments_that_cannot_be_are_refused(change):
  with pytest.raises(ValueError, match="expected"):
    accounting.epsilon(1.0, **(SMALL | change))

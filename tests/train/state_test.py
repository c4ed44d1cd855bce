# SPDX-License-Identifier: Apache-2.0
"""Learning rate, clipping and the moving average."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffmem.train import state


def test_the_rate_rises_then_follows_a_cosine():
  rate = state.learning_rate(lr=0.1, warmup=10, steps=110, decay="cosine")
  values = np.array([float(rate(i)) for i in range(111)])
  assert 0 < values[0] <= 0.011
  assert np.all(np.diff(values[:11]) > 0)
  assert values[10] == pytest.approx(0.1)
  assert values[60] == pytest.approx(0.05)
  assert values[110] == pytest.approx(0.0, abs=1e-9)
  flat = state.learning_rate(lr=0.1, warmup=0, steps=5, decay="constant")
  assert [float(flat(i)) for i in (0, 4)] == pytest.approx([0.1, 0.1])


def test_bad_rates_are_refused():
  with pytest.raises(ValueError, match="is none of"):
    state.learning_rate(lr=0.1, warmup=0, steps=5, decay="linear")
  with pytest.raises(ValueError, match=r"warmup=9 .*steps=5"):
    state.learning_rate(lr=0.1, warmup=9, steps=5, decay="cosine")


def test_a_step_never_exceeds_the_clip():
  rate = state.learning_rate(lr=1.0, warmup=0, steps=9, decay="constant")
  tx = state.optimizer(rate, clip=1.0)
  params = {"w": jnp.zeros(4)}
  # Adam's first step has unit size whatever the scale; its second moment
  # shows the gradient that it saw: the clipped one.
  _, opt = tx.update({"w": jnp.full(4, 100.0)}, tx.init(params), params)
  seen = np.sqrt(float(sum(opt[1][0].nu["w"])) / 0.001)
  assert seen == pytest.approx(1.0, rel=1e-4)


def test_the_average_is_short_at_first_and_long_later():
  ema, params = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
  first = state.average(ema, params, jnp.array(0), 0.99)
  assert float(first["w"][0]) == pytest.approx(0.9)  # d = 1 / 10
  late = state.average(ema, params, jnp.array(10**6), 0.99)
  assert float(late["w"][0]) == pytest.approx(0.01, rel=1e-3)

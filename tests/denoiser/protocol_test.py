# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from diffmem.denoiser import Denoiser
from diffmem.diffusion import process, schedules

SCHEDULE = schedules.linear(20)
SHAPE = (4, 4, 1)
X = np.random.default_rng(5).normal(size=(2, *SHAPE)).astype(np.float32)
T = np.array([0, 19])


def test_a_plain_eps_is_enough():
  denoiser = Denoiser(lambda x, t, cond: 2 * x, SCHEDULE, SHAPE)
  eps, fraction = denoiser.predict(None, X, T)
  np.testing.assert_array_equal(eps, 2 * X)
  assert fraction is None
  np.testing.assert_array_equal(denoiser.eps(X, T, None), 2 * X)


@pytest.mark.parametrize("prediction", process.PREDICTIONS)
def test_eps_is_made_from_apply_whatever_it_predicts(prediction):
  x0 = np.clip(X[::-1], -1, 1)
  alpha_bar = SCHEDULE.alpha_bar
  x_t = process.add_noise(x0, X, T, alpha_bar)

  def apply(params, x, t, cond):
    truth = process.convert(X, x, t, alpha_bar, source="eps", target=prediction)
    return params["scale"] * truth

  denoiser = Denoiser(
    schedule=SCHEDULE,
    shape=SHAPE,
    params={"scale": 1.0},
    apply=apply,
    prediction=prediction,
  )
  np.testing.assert_allclose(denoiser.eps(x_t, T), X, atol=1e-4)
  # predict takes other weights than its own.
  eps, _ = denoiser.predict({"scale": 2.0}, x_t, T)
  assert np.abs(eps - X).max() > 0.1


def test_learned_variance_is_split_off():
  def apply(params, x, t, cond):
    return jnp.concatenate([x, jnp.full_like(x, params)], axis=-1)

  denoiser = Denoiser(
    schedule=SCHEDULE, shape=SHAPE, params=0.5, apply=apply,
    learned_variance=True,
  )  # fmt: skip
  eps, fraction = denoiser.predict(0.5, X, T)
  np.testing.assert_array_equal(eps, X)
  np.testing.assert_array_equal(fraction, np.full(X.shape, 0.75, np.float32))
  np.testing.assert_array_equal(denoiser.eps(X, T), X)


def test_it_is_frozen_and_names_what_it_lacks():
  denoiser = Denoiser(lambda x, t, cond: x, SCHEDULE, SHAPE)
  with pytest.raises(dataclasses.FrozenInstanceError):
    denoiser.shape = (8, 8, 1)
  denoiser.require("eps", "schedule", by="the loss attack")
  with pytest.raises(ValueError, match=r"GSA needs Denoiser\.params.*pass"):
    denoiser.require("params", "apply", by="GSA")


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (dict(schedule=None), r"schedule=None"),
    (dict(shape=None), r"shape=None"),
    (dict(shape=(4, 4)), r"\(h, w, c\)"),
    (dict(eps=None), r"Denoiser\.eps is missing"),
    (dict(params={}), r"Denoiser\.apply is missing"),
    (dict(apply=lambda p, x, t, c: x), r"Denoiser\.params is missing"),
    (dict(learned_variance=True), "needs apply and params"),
    (dict(prediction="score"), "'score'"),
  ],
)
def test_errors(fields, words):
  given = dict(eps=lambda x, t, cond: x, schedule=SCHEDULE, shape=SHAPE)
  with pytest.raises(ValueError, match=words):
    Denoiser(**(given | fields))

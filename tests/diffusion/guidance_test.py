# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import mesh
from diffmem.diffusion import guidance


@pytest.fixture(scope="module")
def x_t():
  return jnp.asarray(np.random.default_rng(4).normal(size=(3, 4, 4, 1)))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guided_is_two_predictions_in_one_call(x_t, scale):
  calls = []

  def predict(params, x, t, cond):
    calls.append(x.shape)
    eps = params * x + (cond + t)[:, None, None, None].astype(x.dtype)
    return eps, eps / 100

  t, cond = jnp.array([5, 6, 7]), jnp.array([1, 2, 3])
  plain, fraction = predict(2.0, x_t, t, cond)
  null, _ = predict(2.0, x_t, t, jnp.full_like(cond, 10))
  calls.clear()
  eps, got_fraction = guidance.guided(predict, 10, scale)(2.0, x_t, t, cond)
  assert calls == [(6, 4, 4, 1)]
  expected = (1 - scale) * null + scale * plain
  np.testing.assert_allclose(eps, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(got_fraction, fraction)


def test_conditions_may_be_trees_of_embeddings(x_t):
  def predict(params, x, t, cond):
    shift = cond["text"].mean(-1) * cond["mask"]
    return x + shift[:, None, None, None], None

  cond = {"text": np.ones((3, 8), np.float32), "mask": np.ones(3, np.float32)}
  null = {"text": np.zeros(8, np.float32), "mask": np.float32(1)}
  eps, fraction = guidance.guided(predict, null, 3.0)(
    None, x_t, jnp.zeros(3, jnp.int32), cond
  )
  assert fraction is None
  np.testing.assert_allclose(eps, x_t + 3.0, rtol=1e-5)


def test_what_the_null_condition_leaves_out_stays(x_t):
  def predict(params, x, t, cond):
    return x + cond["low"] * (1 + cond["text"][:, None, None, None]), None

  cond = {"text": jnp.array([1.0, 2.0, 3.0]), "low": x_t * 2}
  guided = guidance.guided(predict, {"text": 0.0}, 2.0)
  eps, _ = guided(None, x_t, jnp.zeros(3, jnp.int32), cond)
  want = x_t + 2 * x_t * (1 + 2 * cond["text"][:, None, None, None])
  np.testing.assert_allclose(eps, want, rtol=1e-5)


def test_devices_exchange_nothing():
  """Programs that do, many at a time, can wait for each other for ever."""
  devices = mesh.local_mesh()
  b = 2 * devices.size
  null = {"a": np.zeros(3, np.float32)}
  given = (np.ones((b, 4, 4, 1)), np.ones(b, int), {"a": np.ones((b, 3))})

  def predict(params, x_t, t, cond):
    low = cond["a"][:, :1] + t[:, None]
    return params * x_t + low[:, None, None], None

  guided = jax.jit(guidance.guided(predict, null, 2.0))
  program = guided.lower(jnp.ones(()), *mesh.shard(given, devices)).compile()
  text = program.as_text()
  assert "all-gather" not in text
  assert "collective" not in text

# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from diffmem.models import layers


def naive_group_norm(x, scale, bias, groups):
  b, h, w, c = x.shape
  y = x.reshape(b, h, w, groups, c // groups)
  mean = y.mean((1, 2, 4), keepdims=True)
  var = ((y - mean) ** 2).mean((1, 2, 4), keepdims=True)
  y = ((y - mean) / jnp.sqrt(var + 1e-6)).reshape(x.shape)
  shape = (-1, 1, 1, c)
  return y * scale.reshape(shape) + bias.reshape(shape)


@pytest.mark.parametrize("rows", [1, 3])
def test_group_norm_and_its_gradients_are_the_naive_ones(rows):
  keys = jax.random.split(jax.random.key(0), 4)
  x = 1.0 + 2.0 * jax.random.normal(keys[0], (3, 4, 5, 6))
  scale = jax.random.normal(keys[1], (rows, 6))
  bias = jax.random.normal(keys[2], (rows, 6))
  dy = jax.random.normal(keys[3], x.shape)

  def run(fn):
    return jax.vjp(lambda *a: fn(*a, 2), x, scale, bias)

  y, gradient = jax.jit(lambda: run(layers.group_norm)[0])(), None
  ours = jax.jit(lambda: run(layers.group_norm)[1](dy))()
  naive_y, gradient = run(naive_group_norm)
  np.testing.assert_allclose(y, naive_y, atol=2e-5)
  for one, other in zip(ours, gradient(dy), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=5e-5)


def test_group_count_is_the_largest_divisor():
  pairs = [(128, 32), (96, 32), (16, 32), (20, 8), (7, 4)]
  assert [layers.group_count(*p) for p in pairs] == [32, 32, 16, 5, 1]


def test_modulation_scales_and_shifts_each_sample():
  norm = layers.GroupNorm(4, 2)
  x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
  by, shift = jax.random.normal(jax.random.key(1), (2, 2, 4))
  want = norm(x) * (1 + by)[:, None, None] + shift[:, None, None]
  np.testing.assert_allclose(norm(x, modulation=(by, shift)), want, atol=1e-5)


def test_silu_against_scipy():
  x = np.linspace(-30, 30, 1001, dtype=np.float32)
  want = x * scipy.special.expit(x.astype(np.float64))
  np.testing.assert_allclose(
    layers.silu(jnp.asarray(x)), want, rtol=1e-6, atol=3e-6
  )


def test_sinusoids_by_hand():
  got = layers.sinusoids(jnp.array([0.0, 2.0]), 4)
  fast, slow = 2.0, 2.0 / 10000
  want = [
    [0, 0, 1, 1],
    [np.sin(fast), np.sin(slow), np.cos(fast), np.cos(slow)],
  ]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_open_sinusoids_stop_before_the_slowest_wave():
  got = layers.sinusoids(jnp.array([2.0]), 4, closed=False)
  fast, slow = 2.0, 2.0 / 100  # 10000^(-1 / 2)
  want = [[np.sin(fast), np.sin(slow), np.cos(fast), np.cos(slow)]]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_double_repeats_pixels():
  x = jnp.arange(8.0).reshape(1, 2, 2, 2)
  want = np.asarray(x).repeat(2, 1).repeat(2, 2)
  np.testing.assert_array_equal(layers.double(x), want)


def test_attention_is_softmax_over_all_pixels():
  draws = layers.Draws(jax.random.uniform(jax.random.key(0), (500,), minval=-1))
  attention = layers.Attention(4, heads=2, groups=2, draws=draws)
  attention.out.kernel[...] = jnp.eye(4)
  x = jax.random.normal(jax.random.key(1), (2, 2, 3, 4))
  tokens = np.asarray(attention.norm(x)).reshape(2, 6, 4)
  kernel = np.asarray(attention.qkv.kernel[...])
  q, k, v = np.split(tokens @ kernel, 3, axis=-1)
  want = np.zeros((2, 6, 4), np.float32)
  for head in (slice(0, 2), slice(2, 4)):
    logits = q[..., head] @ k[..., head].swapaxes(1, 2) / np.sqrt(2)
    want[..., head] = scipy.special.softmax(logits, -1) @ v[..., head]
  want = np.asarray(x) + want.reshape(x.shape)
  np.testing.assert_allclose(attention(x), want, atol=1e-5)


def test_dropout_keeps_the_mean_and_needs_a_key():
  x = jnp.ones((100, 100))
  y = np.asarray(layers.dropout(x, 0.25, jax.random.key(0)))
  assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
  assert abs(y.mean() - 1) < 0.03
  assert layers.dropout(x, 0.25, None) is x


def test_kernels_start_with_the_stated_variance():
  values = jax.random.uniform(jax.random.key(0), (20_000,), minval=-1)
  draws = layers.Draws(values)
  first = draws.kernel((3, 3, 16, 32), zero=False)
  second = draws.kernel((3, 3, 16, 32), zero=False)
  assert abs(float(first.var()) / (2 / (9 * 48)) - 1) < 0.05
  assert not np.allclose(first, second)
  assert not draws.kernel((3, 3, 16, 32), zero=True).any()

# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem.models import layers, stylegan2_layers
from diffmem.models.convolution import plain


def draws(n=3000):
  values = jax.random.uniform(jax.random.key(3), (n,), minval=-1.0, maxval=1.0)
  return layers.Draws(values)


def images(*shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("demodulate", [True, False])
def test_a_modulated_convolution_is_one_of_a_kernel_per_sample(demodulate):
  conv = stylegan2_layers.Modulated(
    3, 2, 5, demodulate=demodulate, draws=draws()
  )
  x, w = images(4, 5, 6, 3), images(4, 5, seed=1)
  y = conv(x, w)
  kernel, style = np.asarray(conv.kernel[...]), np.asarray(conv.affine(w))
  for i in range(4):
    own = kernel * style[i][None, None, :, None]
    if demodulate:
      own = own / np.sqrt((own**2).sum((0, 1, 2)) + 1e-8)
    else:
      own = own / np.sqrt(27)
    own = jnp.asarray(own, jnp.float32)
    want = plain(x[i : i + 1], own, padding="SAME")
    np.testing.assert_allclose(y[i : i + 1], want, rtol=1e-4, atol=1e-4)


def test_a_modulated_convolution_keeps_the_variance():
  conv = stylegan2_layers.Modulated(8, 8, 5, draws=draws())
  y = conv(3.0 * images(8, 8, 8, 8), images(8, 5, seed=1))
  inside = np.asarray(y)[:, 1:-1, 1:-1]
  assert abs(inside.std() / 3.0 - 1.0) < 0.1


@pytest.mark.parametrize("size", [1, 3])
def test_halving_is_a_filter_and_a_stride(size):
  conv = stylegan2_layers.Conv(2, 3, size=size, down=True, draws=draws())
  x = images(2, 6, 8, 2)
  kernel = conv.kernel[...] * conv.scale
  f = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
  both = np.zeros((size + 3, size + 3, 2, 3))
  for u in range(size):
    for v in range(size):
      both[u : u + 4, v : v + 4] += f[..., None, None] * np.asarray(
        kernel[u, v]
      )
  pad = (size + 1) // 2
  want = plain(
    x, jnp.asarray(both, jnp.float32), (2, 2), [(pad, pad), (pad, pad)]
  )
  assert want.shape == (2, 3, 4, 3)
  np.testing.assert_allclose(conv(x), want, rtol=1e-4, atol=1e-5)


def test_dense_layers_scale_at_run_time():
  dense = stylegan2_layers.Dense(4, 3, rate=0.01, bias=1.0, draws=draws())
  x = images(2, 4)
  want = x @ (dense.kernel[...] * 0.01 / 2.0) + 0.01
  np.testing.assert_allclose(dense(x), want, rtol=1e-5, atol=1e-6)
  assert 50.0 < float(dense.kernel[...].std()) < 200.0


def test_the_deviation_is_that_of_groups():
  layer = stylegan2_layers.Deviation(4)
  x = images(6, 2, 3, 5)
  y = layer(x, True)  # the largest number up to 4 that divides 6 is 3
  groups = [np.asarray(x)[[0, 2, 4]], np.asarray(x)[[1, 3, 5]]]
  stds = [np.sqrt(g.var(0) + 1e-8).mean() for g in groups]
  np.testing.assert_array_equal(y[..., :5], x)
  np.testing.assert_allclose(
    y[:, :, :, 5], np.tile(stds, 3)[:, None, None] * np.ones((6, 2, 3)), 1e-5
  )
  average = 0.01 * np.mean(stds)
  np.testing.assert_allclose(layer.mean[...], average, rtol=1e-5)
  alone = layer(x[:1], False)
  np.testing.assert_allclose(alone[..., 5], average, rtol=1e-5)


def test_noise_is_fixed_without_a_key_and_of_a_learnt_strength():
  layer = stylegan2_layers.StyledConv(2, 2, 3, (4, 4), up=False, draws=draws())
  x, w = images(2, 4, 4, 2), images(2, 3, seed=1)
  key = jax.random.key(0)
  still = layer(x, w, None)
  np.testing.assert_array_equal(still, layer(x, w, key))  # starts as none
  layer.strength[...] = jnp.float32(0.5)
  noisy = layer(x, w, None)
  np.testing.assert_array_equal(noisy, layer(x, w, None))
  assert float(jnp.abs(noisy - still).max()) > 0.1
  assert float(jnp.abs(layer(x, w, key) - noisy).max()) > 0.1

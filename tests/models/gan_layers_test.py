# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffmem.models import gan_layers, layers

RECIPE = gan_layers.Recipe(init="normal", outer="glorot", spectral=True)


def draws(n=2000):
  values = jax.random.uniform(jax.random.key(3), (n,), minval=-1.0, maxval=1.0)
  return layers.Draws(values)


def images(*shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


def test_spectral_norm_is_that_of_the_singular_values():
  weight = gan_layers.Weight((3, 3, 4, 5), "glorot", True, draws=draws())
  kernel = weight.kernel[...]
  want = kernel / np.linalg.svd(np.reshape(kernel, (36, 5)))[1][0]
  first = weight(train=False)
  np.testing.assert_array_equal(first, weight(train=False))  # no step
  for _ in range(30):
    last = weight(train=True)
  np.testing.assert_allclose(last, want, rtol=1e-4)
  assert float(jnp.abs(first - want).max()) > 1e-3


def test_the_gradient_of_the_spectral_norm_is_that_of_the_singular_value():
  weight = gan_layers.Weight((6, 4), "glorot", True, draws=draws())
  for _ in range(50):
    weight(train=True)
  graph, _, state = nnx.split(weight, nnx.Param, gan_layers.Stat)
  by = images(6, 4)

  def ours(kernel):
    params = nnx.State({"kernel": kernel})
    return (nnx.merge(graph, params, state)(False) * by).sum()

  def exact(kernel):
    top = jnp.linalg.svd(kernel, compute_uv=False)[0]
    return (kernel / top * by).sum()

  kernel = weight.kernel[...]
  np.testing.assert_allclose(
    jax.grad(ours)(kernel), jax.grad(exact)(kernel), rtol=1e-3, atol=1e-4
  )


@pytest.mark.parametrize("kind", ["plain", "class", "vector"])
def test_batch_norm_is_by_the_batch_in_training(kind):
  norm = gan_layers.BatchNorm(
    3,
    classes=4 if kind == "class" else None,
    features=5 if kind == "vector" else 0,
    recipe=RECIPE,
    draws=draws(),
  )
  x = 2.0 + 3.0 * images(4, 2, 3, 3)
  condition = {
    "plain": None,
    "class": jnp.array([3, 0, 0, 2]),
    "vector": images(4, 5, seed=1),
  }[kind]
  for _ in range(20 if kind == "vector" else 1):  # its spectral norms settle
    y = norm(x, condition, True)
  x = np.asarray(x)
  want = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
  if kind == "class":
    gain, bias = (np.asarray(p)[condition] for p in (norm.gain, norm.bias))
  elif kind == "vector":
    gain, bias = (
      np.asarray(p(condition, False)) for p in (norm.gain, norm.bias)
    )
  else:
    gain = bias = np.zeros((4, 3))
  want = want * (1 + gain)[:, None, None, :] + bias[:, None, None, :]
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
  assert kind == "plain" or np.abs(gain).max() > 0.01


def test_batch_norm_follows_the_batches_and_then_stands_still():
  norm = gan_layers.BatchNorm(3, draws=draws())
  x = 2.0 + 3.0 * images(4, 2, 3, 3)
  norm(x, None, True)
  pixels = np.asarray(x).reshape(-1, 3)
  np.testing.assert_allclose(norm.mean[...], 0.1 * pixels.mean(0), rtol=1e-5)
  var = 0.9 + 0.1 * pixels.var(0, ddof=1)
  np.testing.assert_allclose(norm.var[...], var, rtol=1e-5)
  mean = norm.mean[...]
  y = norm(x, None, False)
  np.testing.assert_array_equal(norm.mean[...], mean)
  want = (pixels - 0.1 * pixels.mean(0)) / np.sqrt(var + 1e-5)
  np.testing.assert_allclose(np.reshape(y, (-1, 3)), want, atol=1e-5)


def test_normal_draws_are_normal():
  values = np.asarray(draws(4000).normal((4000,), 2.0))
  assert np.isfinite(layers.Draws(-jnp.ones(3)).normal((3,), 1.0)).all()
  quantiles = np.quantile(values, [0.0228, 0.1587, 0.5, 0.8413, 0.9772])
  np.testing.assert_allclose(quantiles, [-4, -2, 0, 2, 4], atol=0.25)


@pytest.mark.parametrize(
  ("side", "bottom", "doublings"),
  [(8, 4, 1), (16, 4, 2), (28, 7, 2), (30, 8, 2), (32, 4, 3), (9, 5, 1),
   (5, 5, 0)],
)  # fmt: skip
def test_sides_come_from_a_small_grid(side, bottom, doublings):
  grid = gan_layers.Grid.of((side, 2 * side, 1))
  assert (grid.bottom[0], grid.doublings) == (bottom, doublings)
  x = images(1, side, 2 * side, 1)
  larger = grid.pad(x)
  assert larger.shape[1] == bottom * 2**doublings >= side
  np.testing.assert_array_equal(grid.crop(larger), x)
  with pytest.raises(ValueError, match="3x9; expected sides of 4 or more"):
    gan_layers.Grid.of((3, 9, 1))


def test_blur_makes_bilinear_and_style_up_sampling():
  x = images(2, 3, 4, 2)
  twice = gan_layers.blur(layers.double(x), "edge")
  want = jax.image.resize(x, (2, 6, 8, 2), "bilinear")
  np.testing.assert_allclose(twice, want, rtol=1e-5, atol=1e-6)
  # Zeros between the pixels, then [1, 3, 3, 1] / 4 along both sides.
  between = np.zeros((6, 8))
  between[::2, ::2] = x[0, :, :, 0]
  filtered = np.apply_along_axis(np.convolve, 0, between, [0.25, 0.75] * 1
                                 + [0.75, 0.25])  # fmt: skip
  filtered = np.apply_along_axis(
    np.convolve, 1, filtered, [0.25, 0.75, 0.75, 0.25]
  )
  ours = gan_layers.blur(layers.double(x))[0, :, :, 0]
  np.testing.assert_allclose(ours, filtered[1:7, 1:9], rtol=1e-5, atol=1e-6)
  halved = gan_layers.halve(x[:, :2])
  np.testing.assert_allclose(halved[0, 0, 0], x[0, :2, :2].mean((0, 1)), 1e-5)

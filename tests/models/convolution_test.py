# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem.models import convolution


def plain(x, kernel, stride, padding="SAME"):
  """JAX's own convolution, and so JAX's own gradients."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def arrays(h, w, inputs, outputs, stride, size=3):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, h, w, inputs))
  kernel = jax.random.normal(keys[1], (size, size, inputs, outputs))
  shape = (2, -(-h // stride), -(-w // stride), outputs)
  return x, kernel, jax.random.normal(keys[2], shape)


def gradients(fn, x, kernel, dy, stride):
  return jax.vjp(lambda x, k: fn(x, k, stride), x, kernel)[1](dy)


@pytest.mark.parametrize(
  ("h", "w", "stride", "size", "block"),
  [
    (8, 6, 1, 3, 2**17),  # one block
    (8, 6, 1, 3, 2 * 2 * 6 * 4),  # blocks of two rows
    (8, 6, 2, 3, 2**17),
    (7, 5, 2, 3, 2**17),  # odd sides
    (6, 4, 1, 1, 2**17),  # a matrix product
    (6, 4, 1, 5, 2 * 3 * 4 * 4),  # a larger kernel, blocks of three rows
  ],
)
def test_value_and_gradients_are_those_of_jax(
  h, w, stride, size, block, monkeypatch
):
  monkeypatch.setattr(convolution, "BLOCK", block)
  x, kernel, dy = arrays(h, w, 3, 4, stride, size)

  @jax.jit
  def both(x, kernel, dy):
    ours = gradients(convolution.convolve, x, kernel, dy, stride)
    theirs = gradients(plain, x, kernel, dy, stride)
    y = convolution.convolve(x, kernel, stride)
    return (y, *ours), (plain(x, kernel, stride), *theirs)

  for one, other in zip(*both(x, kernel, dy), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("h", "w"), [(8, 6), (7, 4)])
def test_the_first_side_may_have_the_odd_zero(h, w):
  """As with padding 1 on all sides, whose last zeros no window may reach."""
  x, kernel, dy = arrays(h, w, 3, 4, 2)

  @jax.jit
  def both(x, kernel, dy):
    def ours(x, k):
      return convolution.convolve(x, k, 2, True)

    def theirs(x, k):
      return plain(x, k, 2, [(1, 1), (1, 1)])

    (y, back), (z, forth) = jax.vjp(ours, x, kernel), jax.vjp(theirs, x, kernel)
    return (y, *back(dy)), (z, *forth(dy))

  for one, other in zip(*both(x, kernel, dy), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)
  last = convolution.convolve(x, kernel, 2)
  assert float(jnp.abs(both(x, kernel, dy)[0][0] - last).max()) > 0.1


def test_gradients_inside_a_scan_match_those_outside(monkeypatch):
  monkeypatch.setattr(convolution, "BLOCK", 2 * 2 * 4 * 4)
  x, kernel, dy = arrays(4, 4, 3, 4, 1)
  xs = jnp.stack([x, 2 * x, -x])

  @jax.jit
  def inside(xs, kernel, dy):
    def body(total, x):
      dx, dk = gradients(convolution.convolve, x, kernel, dy, 1)
      return total + dk, dx

    return jax.lax.scan(body, jnp.zeros_like(kernel), xs)

  total, dxs = inside(xs, kernel, dy)
  # Linear in x: the sum over the scan is (1 + 2 - 1) times one gradient.
  dx, dk = gradients(plain, x, kernel, dy, 1)
  np.testing.assert_allclose(total, 2 * dk, rtol=1e-5, atol=2e-5)
  for each in dxs:
    np.testing.assert_allclose(each, dx, rtol=1e-5, atol=2e-5)


def test_other_backends_keep_the_gradients_of_jax(monkeypatch):
  x, kernel, _ = arrays(4, 4, 3, 4, 1)

  def trace():
    fn = lambda k: convolution.convolve(x, k, 1)  # noqa: E731
    return str(jax.make_jaxpr(fn)(kernel))

  assert "custom_vjp" in trace()
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  assert "custom_vjp" not in trace()

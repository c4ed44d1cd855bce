# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem.models import e2gan, gan, layers


def draws(n=4000):
  values = jax.random.uniform(jax.random.key(3), (n,), minval=-1.0, maxval=1.0)
  return layers.Draws(values)


def images(*shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


def test_words_of_a_cell():
  plan = e2gan.Plan.of(e2gan.PUBLISHED[2], 2)
  assert plan == e2gan.Plan("post", "batch", "bilinear", True, (0,))
  bare = e2gan.Plan.of("pre none deconv", 0)
  assert bare == e2gan.Plan("pre", "none", "deconv", False, ())


@pytest.mark.parametrize("kind", ["bilinear", "nearest", "deconv"])
@pytest.mark.parametrize("times", [1, 2])
def test_the_three_ways_up(kind, times):
  up = e2gan.Up(2, kind, times, draws=draws())
  x = images(2, 3, 4, 2)
  y, scale = np.asarray(up(x)), 2**times
  assert y.shape == (2, 3 * scale, 4 * scale, 2)
  if kind == "nearest":
    want = np.asarray(x).repeat(scale, 1).repeat(scale, 2)
  elif kind == "bilinear":
    want = jax.image.resize(x, y.shape, "bilinear")
  else:
    want = x
    for i in range(times):
      # JAX's slides the kernel over the widened image: it is flipped.
      kernel = up.layers[f"deconv_{i}"].kernel[...]
      kernel = kernel[::-1, ::-1]
      want = jax.lax.conv_transpose(
        want,
        kernel,
        (2, 2),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["post", "pre"])
def test_a_cell_by_its_parts(order):
  words = f"{order} instance nearest shortcut skip0"
  cell = e2gan.Cell(2, e2gan.Plan.of(words, 1), 1, None, draws=draws())
  x, earlier = images(2, 4, 4, 2), images(2, 4, 4, 2, seed=1)

  def norm(x):
    x = np.asarray(x)
    mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    return jnp.asarray(np.maximum((x - mean) / np.sqrt(var + 1e-5), 0.0))

  def block(part, x, up):
    x = norm(x) if order == "pre" else x
    x = part.conv(layers.double(x) if up else x, False)
    return norm(x) if order == "post" else x

  h = block(cell.first, x, True)
  h = h + cell.skips["skip_0"](layers.double(earlier), False)
  y = block(cell.second, h, False) + cell.shortcut(layers.double(x), False)
  ours = cell(x, [earlier], None, False)
  np.testing.assert_allclose(ours[0], h, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(ours[1], y, rtol=1e-4, atol=1e-4)


def test_a_published_generator_moves_by_all_its_parts():
  model = gan.create("e2gan", shape=(8, 8, 1), latent=4, width=3)
  variables = jax.jit(model.generator.init)(jax.random.key(0))
  z = images(4, 4)

  @jax.jit
  def gradient(params):
    def loss(params):
      made, state = model.generator.apply(
        variables | {"params": params}, z, None, train=True
      )
      return (made**3).sum(), (made, state)

    return jax.grad(loss, has_aux=True)(params)

  gradients, (made, state) = gradient(variables["params"])
  assert made.shape == (4, 8, 8, 1)
  leaves = jax.tree.leaves(gradients)
  assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)
  # Biases before batch normalisation are without effect, no kernel is.
  kernels = [leaf for leaf in leaves if leaf.ndim == 4]
  assert all(bool(jnp.abs(leaf).max() > 1e-6) for leaf in kernels)
  assert len(kernels) == 6 + 3 + 2 + 1 + 1
  changed = jax.tree.map(
    lambda a, b: bool(jnp.any(a != b)), state, variables["state"]
  )
  assert all(jax.tree.leaves(changed))

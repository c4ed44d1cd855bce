# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import models
from diffmem.models import lora


@pytest.fixture(scope="module")
def params():
  model = models.create(
    "unet", shape=(4, 4, 1), width=8, multipliers=(1, 2), blocks=1,
    attention=(2,), heads=1, groups=4, num_classes=3,
  )  # fmt: skip
  return model.init(jax.random.key(0))


def init(params, rank, *kinds):
  """The adapters, in one program."""
  made = functools.partial(lora.init, rank=rank, kinds=kinds)
  return jax.jit(made)(params, jax.random.key(1))


def shapes(params, rank, *kinds):
  return jax.eval_shape(functools.partial(init, params, rank, *kinds))


def test_adapters_start_as_nothing(params):
  merged = jax.jit(lora.merge)(params, init(params, 2, *lora.KINDS))
  jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_a_merged_convolution_is_two_convolutions(params):
  """W + A B applied at once equals W, and A followed by B, beside it."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 4, 4, 1)), jnp.float32)
  params = {"stem": params["stem"]}
  found = init(params, 3, "convolution")
  b = jnp.asarray(rng.normal(size=(3, 8)), jnp.float32)
  found["stem/kernel"]["b"] = b
  merged = lora.merge(params, found, alpha=6.0)["stem"]["kernel"]

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  a = found["stem/kernel"]["a"]
  assert a.shape == (3, 3, 1, 3)
  expected = convolve(x, params["stem"]["kernel"])
  expected += 2.0 * convolve(convolve(x, a), b[None, None])
  np.testing.assert_allclose(convolve(x, merged), expected, atol=1e-5)


def test_kinds_part_the_kernels(params):
  names = {
    kind: set(shapes(params, 1, kind)) for kind in ("attention", "convolution")
  }
  assert names["attention"]
  assert all(
    n.endswith(("qkv/kernel", "out/kernel")) for n in names["attention"]
  )
  assert "out/kernel" in names["convolution"]  # the last convolution
  assert not names["attention"] & names["convolution"]
  together = names["attention"] | names["convolution"]
  assert not any("/embed/" in f"/{name}" for name in together)


def test_few_numbers_are_trained(params):
  """Four attentions of 16 channels: r rows of A and columns of B each."""
  found = shapes(params, 2, "attention")
  assert models.count(found) == 4 * 2 * ((16 + 48) + (16 + 16))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(rank=0, kinds=("dense",)), "rank of 1 or more"),
    (dict(rank=2, kinds=()), "some of attention"),
    (dict(rank=2, kinds=("linear",)), "some of attention"),
  ],
)
def test_errors(params, options, message):
  with pytest.raises(ValueError, match=message):
    lora.init(params, jax.random.key(0), **options)


def test_nothing_to_adapt_is_an_error():
  model = models.create("mlp", shape=(4, 4, 1), width=8, blocks=1)
  weights = model.init(jax.random.key(0))
  with pytest.raises(ValueError, match="no kernels of attention"):
    lora.init(weights, jax.random.key(0), rank=2, kinds=("attention",))

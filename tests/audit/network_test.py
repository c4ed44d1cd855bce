# SPDX-License-Identifier: Apache-2.0
"""What a network call costs, against layers counted by hand."""

import jax
import jax.numpy as jnp
import pytest

import diffmem.models
from diffmem.audit import network


def test_a_single_product_by_hand():
  def apply(params, x, t, cond, *, key=None):
    return (x.reshape(len(x), 4) @ params["w"]).reshape(len(x), 1, 6, 1)

  model = diffmem.models.Model(
    "product", (2, 2, 1), 1, None, lambda key: {"w": jnp.zeros((4, 6))}, apply
  )
  found = network.count(model, "float32")
  assert found.params == 24
  assert found.flops == 2 * 4 * 6
  assert found.moved == 4 * (4 + 6)  # what it reads and writes, weights aside
  assert found.alive == 4 * (6 + 6)  # the product, and the same as an image
  assert found.kept == 4 * 4  # its input


def test_a_scan_counts_each_of_its_turns():
  def apply(params, x, t, cond, *, key=None):
    def body(y, w):
      return y @ w, None

    y, _ = jax.lax.scan(body, x.reshape(len(x), 4), params["w"])
    return y.reshape(x.shape)

  model = diffmem.models.Model(
    "scan", (2, 2, 1), 1, None, lambda key: {"w": jnp.zeros((3, 4, 4))}, apply
  )
  assert network.count(model, "float32").moved == 3 * 4 * (4 + 4)


@pytest.mark.parametrize("classes", [None, 10])
def test_a_dense_network_does_twice_its_weights(classes):
  model = diffmem.models.create(
    "mlp", shape=(4, 4, 1), num_classes=classes, width=32, blocks=2
  )
  found = network.count(model, "float32")
  assert found.flops == pytest.approx(2 * found.params, rel=0.25)
  assert found.kept > found.alive > 0


def test_conditions_that_mean_none():
  model = diffmem.models.create(
    "mlp", shape=(4, 4, 1), num_classes=10, width=8, blocks=1
  )
  assert network.cond(model, 3).tolist() == [10, 10, 10]

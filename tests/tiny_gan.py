# SPDX-License-Identifier: Apache-2.0
"""A GAN of two dense networks, with the interface of diffmem.models.gan."""

import jax
import jax.numpy as jnp

from diffmem.models.gan import GAN, Network

LATENT = 4
WIDTH = 24


def create(shape=(8, 8, 1), num_classes=None):
  """It counts, as state, how often a network was trained."""
  h, w, c = shape
  classes = num_classes or 0

  def network(inputs, outputs, finish):
    def init(key):
      a, b = jax.random.split(key)
      return {
        "params": {
          "first": jax.random.normal(a, (inputs, WIDTH)) / inputs**0.5,
          "second": jax.random.normal(b, (WIDTH, outputs)) / WIDTH**0.5,
          "bias": jnp.zeros((1, outputs)),
        },
        "state": {"seen": jnp.zeros(())},
      }

    def apply(variables, x, cond, *, key=None, train=False):
      del key
      params, state = variables["params"], variables["state"]
      x = x.reshape(len(x), -1)
      if classes:
        x = jnp.concatenate([x, jax.nn.one_hot(cond, classes)], axis=1)
      y = jnp.tanh(x @ params["first"]) @ params["second"] + params["bias"]
      seen = state["seen"] + (1.0 if train else 0.0)
      return finish(y), {"seen": seen}

    return Network(init, apply)

  return GAN(
    "tiny",
    shape,
    num_classes,
    LATENT,
    network(
      LATENT + classes, h * w * c, lambda y: jnp.tanh(y).reshape(-1, h, w, c)
    ),
    network(h * w * c + classes, 1, lambda y: y[:, 0]),
  )

# SPDX-License-Identifier: Apache-2.0
"""The train step takes its state over: there is never a second one."""

import functools

import jax
import numpy as np

from diffmem import keys, mesh, models
from diffmem.diffusion import schedules
from diffmem.train import state, step

SHAPE = (8, 8, 1)


def test_the_state_is_donated():
  model = models.create("mlp", shape=SHAPE, width=16, blocks=1)
  rate = state.learning_rate(lr=1e-3, warmup=1, steps=9, decay="cosine")
  tx = state.optimizer(rate, clip=1.0)
  whole = mesh.replicated(mesh.data_mesh())
  init = jax.jit(functools.partial(state.init, model.init, tx))
  first = jax.device_put(init(keys.root(0)), whole)
  train_step = step.create(
    model,
    schedules.linear(10),
    tx,
    rate,
    prediction="eps",
    loss="mse",
    ema=0.9,
  )
  images = np.zeros((jax.device_count(), *SHAPE), np.uint8)
  batch = mesh.shard({"image": images}, mesh.data_mesh())
  compiled = train_step.lower(first, batch, keys.root(1)).compile()
  held = sum(leaf.nbytes for leaf in jax.tree.leaves(first))
  memory = compiled.memory_analysis()
  assert memory.alias_size_in_bytes >= held  # outputs lie where inputs lay
  second, _ = compiled(first, batch, keys.root(1))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(second))

# SPDX-License-Identifier: Apache-2.0
"""The train step lowers for TPU, over all devices, without one."""

import functools

import jax
import jax.export
import numpy as np

from diffmem import keys, models
from diffmem.diffusion import schedules
from diffmem.train import state, step


def test_the_train_step_lowers_for_tpu():
  shape = (8, 8, 1)
  model = models.create(
    "unet", shape=shape, width=8, multipliers=(1,), blocks=1, attention=(),
    middle="attention", groups=4, num_classes=3,
  )  # fmt: skip
  rate = state.learning_rate(lr=1e-3, warmup=1, steps=9, decay="cosine")
  tx = state.optimizer(rate, clip=1.0)
  first = jax.eval_shape(
    functools.partial(state.init, model.init, tx), keys.root(0)
  )
  train_step = step.create(
    model,
    schedules.linear(10),
    tx,
    rate,
    prediction="eps",
    loss="mse",
    ema=0.9,
    label_dropout=0.1,
  )
  batch = jax.device_count()
  exported = jax.export.export(train_step, platforms=["tpu"])(
    first,
    {
      "image": jax.ShapeDtypeStruct((batch, *shape), np.uint8),
      "label": jax.ShapeDtypeStruct((batch,), np.int32),
    },
    keys.root(1),
  )
  assert exported.platforms == ("tpu",)
  assert exported.nr_devices == batch

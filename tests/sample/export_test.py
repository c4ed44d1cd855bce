# SPDX-License-Identifier: Apache-2.0
"""The chain lowers for TPU, without one."""

import jax
import jax.export
import numpy as np

from diffmem import keys, models
from diffmem.denoiser import Denoiser
from diffmem.diffusion import schedules
from diffmem.sample import chain as chains


def test_the_chain_of_a_network_lowers_for_tpu():
  shape = (8, 8, 1)
  model = models.create(
    "unet", shape=shape, width=8, multipliers=(1,), blocks=1, attention=(),
    middle="attention", groups=4,
  )  # fmt: skip
  params = jax.eval_shape(model.init, keys.root(0))
  denoiser = Denoiser(
    schedule=schedules.linear(10),
    shape=shape,
    params=params,
    apply=model.apply,
  )
  chain = chains.chain(
    denoiser, stepper="ddim", steps=5, eta=1.0, guidance=1.0, clip=True
  )
  exported = jax.export.export(jax.jit(chain), platforms=["tpu"])(
    params, jax.ShapeDtypeStruct((4,), np.int32), keys.root(1)
  )
  assert exported.platforms == ("tpu",)
  assert exported.out_avals[0].shape == (4, *shape)

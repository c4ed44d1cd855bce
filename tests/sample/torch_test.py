# SPDX-License-Identifier: Apache-2.0
"""From one noise and one set of weights PyTorch's sampler draws the same."""

import jax
import numpy as np
import pytest

from diffmem import arrays, data, keys
from diffmem.sample import chain

pytest.importorskip("torch", reason="the extra [torch] is not installed")
pytestmark = pytest.mark.torch

import torch  # noqa: E402

from tests import torch_ddpm  # noqa: E402


def test_ddim_of_torch_draws_the_same_images():
  images = data.load("digits").images[:24]
  network, denoiser = torch_ddpm.trained_and_converted(images)
  ids, key = np.arange(8), keys.root(0)
  draw = chain.chain(
    denoiser, stepper="ddim", steps=10, eta=0.0, guidance=1.0, clip=True
  )
  ours = arrays.to_uint8(jax.jit(draw)(denoiser.params, ids, key))
  start = np.array(chain.start_noise(keys.per_id(key, ids), (8, 8, 1)))
  start = torch.from_numpy(start.transpose(0, 3, 1, 2))
  theirs = torch_ddpm.to_uint8(torch_ddpm.ddim(network, start, 10))
  assert len(np.unique(theirs)) > 50
  apart = np.abs(np.asarray(ours, int) - theirs)
  assert np.mean(apart <= 1) > 0.999

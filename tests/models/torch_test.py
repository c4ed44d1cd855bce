# SPDX-License-Identifier: Apache-2.0
"""The U-Net of digits.py is the one written in PyTorch."""

import jax
import numpy as np
import pytest

from diffmem import keys, models
from diffmem.bin import program

pytest.importorskip("torch", reason="the extra [torch] is not installed")
pytestmark = pytest.mark.torch

import torch  # noqa: E402

from tests import torch_digits  # noqa: E402


def test_outputs_are_those_of_torch(root):
  config = program.load_config(f"{root}/configs/digits.py")
  model = models.create(shape=(8, 8, 1), **config.models.to_dict())
  shapes = jax.eval_shape(model.init, keys.root(0))
  assert models.count(shapes) == sum(
    value.numel() for value in torch_digits.network().parameters()
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes
  )
  x = rng.normal(size=(3, 8, 8, 1)).astype(np.float32)
  t = np.array([0, 100, 999], np.int32)
  ours = jax.jit(model.apply)(params, x, t, None)
  with torch.no_grad():
    theirs = torch_digits.converted(params)(
      torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(t)
    ).numpy()
  theirs = theirs.transpose(0, 2, 3, 1)
  assert theirs.std() > 0.01
  np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.std())

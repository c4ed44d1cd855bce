# SPDX-License-Identifier: Apache-2.0
"""A GAN, and a denoiser under DP-SGD, are trained by two processes as by one.

Batches, latents, augmentations, and the noise of DP-SGD are functions of the
seed alone; sums are made in another order, so weights agree to rounding.
"""

import json
import re

import jax
import numpy as np
import pytest

from diffmem import workdir
from diffmem.denoiser import gans, trained
from tests import pods

pytestmark = pytest.mark.slow

FLAGS = {
  "gan_small.py:debug,family=diffbiggan": {
    "models.width": 8,
    "models.discriminator_width": 8,
  },
  "defence_small.py:debug,defence=dp_high": {},
}
# Biases ahead of a batch normalisation change no image: their gradients are
# rounding, of which Adam makes whole steps, and running means follow them.
FREE = re.compile(r"\['generator'\].*(\['bias'\]|\['mean'\])")
METRICS = ("loss", "loss_generator", "grad_norm", "signs", "clipped")


@pytest.fixture(autouse=True)
def _end():
  yield
  pods.end_all()


def train(root, config, count, devices):
  args = [
    *("-m", "diffmem.bin.train"),
    f"--config={pods.ROOT / 'configs' / config}",
    f"--workdir={root}",
    *(f"--config.{key}={value}" for key, value in FLAGS[config].items()),
  ]
  pods.Pod(args, count, devices=devices, cwd=root.parent).finish()
  lines = (root / "train" / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def same(one, other):
  leaves, others = (
    jax.tree_util.tree_leaves_with_path(one),
    jax.tree.leaves(other),
  )
  held = 0
  for (path, a), b in zip(leaves, others, strict=True):
    name = jax.tree_util.keystr(path)
    if FREE.match(name):
      continue
    np.testing.assert_allclose(b, a, atol=1e-5, err_msg=name)
    held += a.size
  assert held > 0.9 * sum(x.size for x in others)


@pytest.mark.parametrize("config", FLAGS)
def test_two_processes_train_as_one(config, tmp_path):
  one, two = tmp_path / "one", tmp_path / "two"
  calm, shared = train(one, config, 1, 4), train(two, config, 2, 2)
  assert workdir.require(two, "train")["hardware"]["processes"] == 2
  assert len(calm) == len(shared) > 1
  for a, b in zip(calm, shared, strict=True):
    for name in set(METRICS) & set(a):
      np.testing.assert_allclose(b[name], a[name], rtol=1e-3, err_msg=name)
  load = gans.load if config.startswith("gan") else trained.load
  same(load(one).params, load(two).params)

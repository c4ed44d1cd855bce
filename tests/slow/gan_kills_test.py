# SPDX-License-Identifier: Apache-2.0
"""SIGKILL while a GAN is trained and sampled, then the same command again.

The weights and the bank must be those of a run that nobody killed.
"""

import functools

import numpy as np
import pytest

from diffmem import workdir
from diffmem.sample import bank
from tests import kills

pytestmark = pytest.mark.slow

FLAGS = {
  "train.steps": 40,
  "train.checkpoint_every": 2,
  "sample.n": 256,
  "sample.batch": 16,
}
KILLS = {"train": 2, "sample": 1}

begin = functools.partial(
  kills.stage, config="gan_small.py:debug,family=diffbiggan", flags=FLAGS
)


def _made(root, stage):
  """Checkpoints, or chunks."""
  if stage == "sample":
    return set(root.glob("sample/images/c/*"))
  found = root.glob("train/checkpoints/*")
  return {path for path in found if path.name.isdigit()}


def test_a_killed_gan_goes_on_to_the_same_weights_and_images(tmp_path):
  calm, killed = tmp_path / "calm", tmp_path / "killed"
  for stage, times in KILLS.items():
    kills.finish(begin(stage, calm))
    made = functools.partial(_made, killed, stage)
    kills.strike(
      functools.partial(begin, stage, killed),
      [(made, 0.2)] * times,
      done=functools.partial(kills.finished, killed / stage),
      made=(killed / stage,),
    )
    kills.finish(begin(stage, killed))
  weights = [workdir.require(r, "train")["weights"] for r in (calm, killed)]
  assert weights[0] == weights[1]
  images = [np.asarray(bank.open_bank(r)) for r in (calm, killed)]
  np.testing.assert_array_equal(*images)

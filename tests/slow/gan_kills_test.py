# SPDX-License-Identifier: Apache-2.0
"""SIGKILL while a GAN is trained and sampled, then the same command again.

The weights and the bank must be those of a run that nobody killed.
"""

import os
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from diffmem import workdir
from diffmem.sample import bank

pytestmark = pytest.mark.slow

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent
FLAGS = {
  "train.steps": 40,
  "train.checkpoint_every": 2,
  "sample.n": 256,
  "sample.batch": 16,
}
KILLS = {"train": 2, "sample": 1}


def _start(stage, root):
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      f"diffmem.bin.{stage}",
      "--config=gan_small.py:debug,family=diffbiggan",
      f"--workdir={root}",
      *(f"--config.{key}={value}" for key, value in FLAGS.items()),
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=root.parent,
    env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
  )


def _finish(stage, root):
  run = _start(stage, root)
  said, _ = run.communicate(timeout=600)
  assert run.returncode == 0, said


def _made(root, stage):
  """The last checkpoint, or how many chunks there are."""
  if stage == "sample":
    return len(list((root / "sample" / "images" / "c").glob("*")))
  names = (root / "train" / "checkpoints").glob("*")
  return max((int(p.name) for p in names if p.name.isdigit()), default=0)


def _kill_once_it_works(stage, root, rng):
  before, run = _made(root, stage), _start(stage, root)
  deadline = time.monotonic() + 300
  while run.poll() is None and _made(root, stage) == before:
    assert time.monotonic() < deadline
    time.sleep(0.01)
  time.sleep(rng.uniform(0.0, 0.2))
  struck = run.poll() is None
  run.kill()
  run.communicate()
  return struck


def test_a_killed_gan_goes_on_to_the_same_weights_and_images(tmp_path):
  calm, killed = tmp_path / "calm", tmp_path / "killed"
  rng, struck = random.Random(0), 0
  for stage, kills in KILLS.items():
    _finish(stage, calm)
    struck += sum(_kill_once_it_works(stage, killed, rng) for _ in range(kills))
    _finish(stage, killed)
  assert struck
  weights = [workdir.require(r, "train")["weights"] for r in (calm, killed)]
  assert weights[0] == weights[1]
  images = [np.asarray(bank.open_bank(r)) for r in (calm, killed)]
  np.testing.assert_array_equal(*images)

# SPDX-License-Identifier: Apache-2.0
"""SIGKILL while each stage of a cascade is trained and its bank is made."""

import os
import pathlib
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
  "train.checkpoint_every": 10,
  "train.log_every": 1,
  "train.preview_every": 1000,
  "sample.batch": 4,
}
# A stage, and what it is killed at the sight of.
KILLS = (
  ("train", "train/checkpoints/20*"),
  ("train", "upsamplers/0/train/meta.json"),
  ("train", "upsamplers/0/train/metrics.jsonl"),
  ("sample", "sample/images/c/2*"),
  ("sample", "sample/images/c/9*"),
)


def _start(stage: str, root: pathlib.Path) -> subprocess.Popen:
  command = [
    *(sys.executable, "-m", f"diffmem.bin.{stage}"),
    "--config=imagen_small.py:debug",
    f"--workdir={root}",
    *(f"--config.{key}={value}" for key, value in FLAGS.items()),
  ]
  return subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=root.parent,
    env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
  )


def _finish(stage: str, root: pathlib.Path) -> None:
  run = _start(stage, root)
  said, _ = run.communicate(timeout=600)
  assert run.returncode == 0, said


def _kill(stage: str, root: pathlib.Path, sight: str) -> None:
  """Kills the stage as soon as a path appears that was not there."""
  before = set(root.glob(sight))
  run = _start(stage, root)
  while run.poll() is None and set(root.glob(sight)) <= before:
    time.sleep(0.002)
  run.kill()
  said, _ = run.communicate()
  assert run.returncode == -9, said


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("calm") / "run"
  for stage in ("train", "choose", "sample"):
    _finish(stage, root)
  return root


@pytest.fixture(scope="module")
def killed(calm, tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("killed") / "run"
  for stage in ("train", "choose", "sample"):
    for name, sight in KILLS:
      if name == stage:
        _kill(stage, root, sight)
    _finish(stage, root)
  return root


@pytest.mark.parametrize("stage", [".", "upsamplers/0"])
def test_every_stage_has_the_same_weights(calm, killed, stage):
  metas = [workdir.require(root / stage, "train") for root in (calm, killed)]
  assert metas[0]["weights"] == metas[1]["weights"]
  assert metas[1]["runs"] > metas[0]["runs"] == 1


def test_the_bank_is_bit_identical(calm, killed):
  banks = [bank.open_bank(root) for root in (calm, killed)]
  np.testing.assert_array_equal(banks[1][:], banks[0][:])
  assert banks[1].prompts == banks[0].prompts
  np.testing.assert_array_equal(banks[1].prompt_ids, banks[0].prompt_ids)
  metas = [one.meta["inputs"] for one in banks]
  assert metas[0] == metas[1]

# SPDX-License-Identifier: Apache-2.0
"""SIGKILL while shadow models are trained in turn, then the same command.

Whatever the kill strikes, the next run keeps the finished shadows, goes on
with the one it struck, and ends with the weights of a calm run.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

from diffmem import workdir
from diffmem.membership import manifest

pytestmark = pytest.mark.slow

SHADOWS = 6
STEPS = 200
FLAGS = {
  "train.steps": STEPS,
  "train.checkpoint_every": 10,
  "train.preview_every": STEPS,
}
CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent


def _start(root: pathlib.Path) -> subprocess.Popen:
  command = [
    sys.executable,
    "-m",
    "diffmem.bin.train",
    f"--config=digits_membership.py:debug,shadows={SHADOWS}",
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


def _finish(root: pathlib.Path) -> None:
  run = _start(root)
  said, _ = run.communicate(timeout=600)
  assert run.returncode == 0, said


def _progress(root: pathlib.Path) -> tuple[int, int]:
  """(shadows finished, checkpoints of the one under way)."""
  done = 0
  for i in range(SHADOWS):
    file = root / "shadows" / str(i) / "train" / "meta.json"
    if not file.exists():
      return done, 0
    if json.loads(file.read_text())["status"] != "finished":
      return done, len(list(file.parent.glob("checkpoints/*")))
    done += 1
  return done, 0


def _kill(root: pathlib.Path, shadow: int, chance: random.Random) -> None:
  """Kills a run soon after a checkpoint of this shadow begins."""
  run = _start(root)
  while run.poll() is None and _progress(root) < (shadow, 1):
    time.sleep(0.002)
  time.sleep(chance.uniform(0, 0.1))
  run.kill()
  run.communicate()
  assert _progress(root)[0] == shadow


def test_killed_shadows_go_on_to_the_same_weights(tmp_path):
  calm, root = tmp_path / "calm", tmp_path / "killed"
  _finish(calm)
  expected = manifest.read(calm)
  chance = random.Random(0)
  for shadow in (0, 1, 3):
    _kill(root, shadow, chance)
  finished = {
    i: (root / "shadows" / str(i) / "train" / "meta.json").stat().st_mtime_ns
    for i in range(3)
  }
  _finish(root)
  found = manifest.read(root)
  assert [m.weights for m in found.models] == [
    m.weights for m in expected.models
  ]
  assert [m.meta["runs"] for m in found.models] == [2, 2, 1, 2, 1, 1]
  for i, kept in finished.items():
    file = root / "shadows" / str(i) / "train" / "meta.json"
    assert file.stat().st_mtime_ns == kept
  for model in found.models:
    lines = (model.folder / "train" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert workdir.require(model.folder, "train")["images"] == 599

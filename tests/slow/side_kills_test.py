# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of the side stage, then the same command.

Images, weights and results end as those of a calm run.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from diffmem import store, workdir

pytestmark = pytest.mark.slow

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent
KILLS = 4
FLAGS = {
  "side.training.steps": 100,
  "side.training.checkpoint_every": 20,
  "side.n": 256,
  "side.synthetic": 256,
  "side.sampler.steps": 10,
}


def _start(root: pathlib.Path, program: str) -> subprocess.Popen:
  command = [
    *(sys.executable, "-m", f"diffmem.bin.{program}"),
    *("--config=side_small.py:debug", f"--workdir={root}"),
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


def _finish(root: pathlib.Path, program: str) -> None:
  run = _start(root, program)
  said, _ = run.communicate(timeout=900)
  assert run.returncode == 0, said


def _files(root: pathlib.Path) -> set[pathlib.Path]:
  """Chunks of all images."""
  chunks = root.glob("shadows/*/side/**/images/c/*/*/*/*")
  return {f for f in chunks if f.name.isdigit()}


def _runs(root: pathlib.Path) -> int:
  """How often the stage was begun on any model."""
  metas = root.glob("shadows/*/side/meta.json")
  return sum(json.loads(file.read_text())["runs"] for file in metas)


def test_kills_lose_nothing(tmp_path):
  calm, root = tmp_path / "calm", tmp_path / "killed"
  _finish(calm, "train")
  root.mkdir()
  for name in ("data", "shadows"):
    subprocess.run(["cp", "-r", str(calm / name), str(root / name)], check=True)
  _finish(calm, "side")
  seconds = sum(
    workdir.require(calm / "shadows" / i, "side")["seconds"] for i in "01"
  )
  chance, kept = random.Random(0), set()
  struck = 0
  while struck < KILLS and not (root / "side" / "results.json").exists():
    runs = _runs(root)
    run = _start(root, "side")
    while _runs(root) == runs and run.poll() is None:
      time.sleep(0.01)
    time.sleep(chance.uniform(0, seconds / KILLS))
    run.kill()
    run.communicate()
    struck += 1
    now = _files(root)
    assert kept <= now, "a chunk was lost"
    kept = now
  assert struck >= KILLS // 2, f"only {struck} kills struck"
  _finish(root, "side")
  for shadow in ("0", "1"):
    first, second = (r / "shadows" / shadow / "side" for r in (calm, root))
    for bank in ("unguided", "scratch", "distilled", "plain"):
      one, two = (
        store.open(f / "banks" / bank / "images")[:] for f in (first, second)
      )
      np.testing.assert_array_equal(one, two)
    results = [
      json.loads((f / "results.json").read_text()) for f in (first, second)
    ]
    assert results[0] == results[1]
  together = [
    workdir.read_json(r / "side" / "results.json") for r in (calm, root)
  ]
  assert together[0] == together[1]

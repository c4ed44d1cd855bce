# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of the quality stage, then the same command."""

import json
import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

from diffmem import workdir

pytestmark = pytest.mark.slow

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent
KILLS = 4
FLAGS = {
  "quality.batch": 32,
  "quality.loss.times": 10,
  "quality.loss.draws": 4,
  "quality.features.training.steps": 4,
}


def _start(stage: str, root: pathlib.Path) -> subprocess.Popen:
  command = [
    *(sys.executable, "-m", f"diffmem.bin.{stage}"),
    "--config=digits.py:debug,quality",
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


def _meta(root: pathlib.Path) -> dict:
  file = root / "quality" / "meta.json"
  return json.loads(file.read_text()) if file.exists() else {}


def _kept(root: pathlib.Path) -> dict[pathlib.Path, int]:
  """Everything that is made once, and when it was."""
  places = ("done/*.json", "classifier.npz", "*/*/c/*/*")
  files = [file for place in places for file in root.glob(f"quality/{place}")]
  whole = [file for file in files if "_lock" not in file.name]
  return {file: file.stat().st_mtime_ns for file in whole}


def test_kills_lose_nothing(tmp_path):
  calm, root = tmp_path / "calm", tmp_path / "killed"
  for stage in ("train", "sample", "quality"):
    _finish(stage, calm)
  root.mkdir()
  for name in ("data", "train", "sample"):
    (root / name).symlink_to(calm / name)
  seconds = workdir.require(calm, "quality")["seconds"]
  chance, struck = random.Random(0), 0
  kept: dict[pathlib.Path, int] = {}
  while struck < KILLS:
    runs = _meta(root).get("runs", 0)
    run = _start("quality", root)
    while _meta(root).get("runs", 0) == runs and run.poll() is None:
      time.sleep(0.002)
    time.sleep(chance.uniform(0, 1.5 * seconds / KILLS))
    run.kill()
    run.communicate()
    if _meta(root)["status"] == "finished":
      break
    struck += 1
    now = _kept(root)
    assert kept.items() <= now.items(), "something was lost, or made again"
    kept = now
  assert struck, "no kill struck"
  _finish("quality", root)
  first, second = (
    (r / "quality" / "results.json").read_text() for r in (calm, root)
  )
  assert first == second

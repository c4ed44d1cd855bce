# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of the inpaint stage, then the same command."""

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
  "inpaint.targets": 40,
  "inpaint.candidates": 64,
  "inpaint.batch": 64,
  "inpaint.steps": 20,
  "inpaint.resample": 4,
}


def _start(stage: str, root: pathlib.Path) -> subprocess.Popen:
  command = [
    *(sys.executable, "-m", f"diffmem.bin.{stage}"),
    "--config=digits_reconstruction.py:debug",
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
  file = root / "inpaint" / "meta.json"
  return json.loads(file.read_text()) if file.exists() else {}


def test_kills_lose_nothing(tmp_path):
  calm, root = tmp_path / "calm", tmp_path / "killed"
  _finish("audit", calm)
  root.mkdir()
  for name in ("data", "shadows"):
    (root / name).symlink_to(calm / name)
  seconds = workdir.require(calm, "inpaint")["seconds"]
  chance, kept, struck = random.Random(0), set(), 0
  while struck < KILLS:
    runs = _meta(root).get("runs", 0)
    run = _start("inpaint", root)
    while _meta(root).get("runs", 0) == runs and run.poll() is None:
      time.sleep(0.002)
    time.sleep(chance.uniform(0, 1.5 * seconds / KILLS))
    run.kill()
    run.communicate()
    if _meta(root)["status"] == "finished":
      break
    struck += 1
    now = set(root.glob("inpaint/done/*/*/*.npz"))
    assert kept <= now, "a target was lost"
    kept = now
  assert struck, "no kill struck"
  _finish("inpaint", root)
  for file in ("results.json", "targets.csv"):
    first, second = (r / "inpaint" / file for r in (calm, root))
    assert first.read_text() == second.read_text()

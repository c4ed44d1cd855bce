# SPDX-License-Identifier: Apache-2.0
"""SIGKILL while training is deduplicated and made private, then once more.

The same command goes on to the weights that a calm run makes.
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

pytestmark = pytest.mark.slow

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent
KILLS = 4
CONFIG = f"""
import runpy
def get_config(arg=""):
  made = runpy.run_path("{CHECKOUT}/configs/defence_small.py")["get_config"]
  config = made("debug,defence=dedup")
  with config.unlocked():
    config.train.privacy = made("debug,defence=dp_clip").train.privacy
    config.train.update(steps=150, checkpoint_every=10, preview_every=150)
  return config
"""


def _start(root: pathlib.Path) -> subprocess.Popen:
  (root.parent / "both.py").write_text(CONFIG)
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      "diffmem.bin.train",
      f"--config={root.parent / 'both.py'}",
      f"--workdir={root}",
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
  )


def _finish(root: pathlib.Path) -> dict:
  run = _start(root)
  said, _ = run.communicate(timeout=600)
  assert run.returncode == 0, said
  return workdir.require(root, "train")


def _began(root: pathlib.Path) -> int:
  """Runs of both folders that have begun."""
  files = [root / name / "meta.json" for name in ("dedup", "train")]
  return sum(json.loads(f.read_text())["runs"] for f in files if f.exists())


def test_killed_runs_go_on_to_the_weights_of_a_calm_one(tmp_path):
  start = time.monotonic()
  calm = _finish(tmp_path / "calm")
  seconds = time.monotonic() - start
  chance, struck = random.Random(0), 0
  root = tmp_path / "killed"
  for _ in range(KILLS):
    before, run = _began(root), _start(root)
    while _began(root) == before and run.poll() is None:
      time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.3 * seconds))
    run.kill()
    run.communicate()
    file = root / "train" / "meta.json"
    struck += not file.exists() or (
      json.loads(file.read_text())["status"] == "started"
    )
  assert struck > 0
  assert _finish(root)["weights"] == calm["weights"]
  for name in ("edges.npz", "removed.csv", "gallery.npz"):
    one, other = (r / "dedup" / name for r in (root, tmp_path / "calm"))
    assert one.read_bytes() == other.read_bytes()
  assert not list(root.rglob("*.tmp"))

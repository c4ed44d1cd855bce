# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of an import, then the same command again."""

import json
import os
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import diffmem
from diffmem import workdir

pytestmark = pytest.mark.slow

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent
KILLS = 6


def _start(given: pathlib.Path, root: pathlib.Path) -> subprocess.Popen:
  command = [
    *(sys.executable, "-m", "diffmem.bin.sample", "--config=folder.py"),
    *(f"--workdir={root}", f"--config.sample.path={given}"),
    "--config.sample.batch=16",
  ]
  return subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=given.parent,
    env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
  )


def _finish(given: pathlib.Path, root: pathlib.Path) -> None:
  run = _start(given, root)
  said, _ = run.communicate(timeout=300)
  assert run.returncode == 0, said
  assert workdir.require(root, "sample")["status"] == "finished"


def _status(root: pathlib.Path) -> str | None:
  file = root / "sample" / "meta.json"
  return json.loads(file.read_text())["status"] if file.exists() else None


def _content(root: pathlib.Path) -> dict:
  return {
    file.relative_to(root): file.read_bytes()
    for file in (root / "sample").rglob("*")
    if file.is_file() and file.name not in ("meta.json", ".lock")
  }


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> pathlib.Path:
  """4,000 images of 40 prompts; every 7th is cut, which only decoding shows."""
  folder = tmp_path_factory.mktemp("given") / "images"
  chance = np.random.default_rng(0)
  for i in range(4000):
    file = folder / f"prompt {i % 40}" / f"{i:04d}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = chance.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    if i % 7 == 0:
      os.truncate(file, file.stat().st_size - 300)
  return folder


def test_kills_lose_nothing(given, tmp_path):
  calm, root = tmp_path / "calm", tmp_path / "killed"
  _finish(given, calm)
  seconds = workdir.require(calm, "sample")["seconds"]
  chance = random.Random(0)
  struck, kept = 0, 0
  chunks = root / "sample" / "images" / "c"
  while struck < KILLS:
    run = _start(given, root)
    while _status(root) is None and run.poll() is None:
      time.sleep(0.002)
    begun = len(list(chunks.glob("*"))) if chunks.exists() else 0
    while run.poll() is None:
      if chunks.exists() and len(list(chunks.glob("*"))) > begun:
        break
    time.sleep(chance.uniform(0, seconds / (2 * KILLS)))
    run.kill()
    run.communicate()
    if _status(root) == "finished":
      break
    struck += 1
    now = len(list(chunks.glob("*")))
    assert now >= kept, "a chunk was lost"
    kept = now
  assert struck >= KILLS // 2, f"only {struck} kills struck"
  leftover = _content(root)
  _finish(given, root)
  found = _content(root)
  temporary = {file for file in leftover if file not in _content(calm)}
  assert {k: v for k, v in found.items() if k not in temporary} == _content(
    calm
  )
  first, second = (diffmem.open_bank(x) for x in (calm, root))
  np.testing.assert_array_equal(first[:], second[:])
  assert len(first) == 4000 - 572
  for key in ("pixels", "counts", "prompts"):
    assert first.meta[key] == second.meta[key]

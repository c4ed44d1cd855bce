# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of the prompts stage: 1,000 prompts x 64 images."""

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
from diffmem.sample import bank

pytestmark = pytest.mark.slow

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent
PROMPTS, EACH, MEMORIZED, KILLS = 1000, 64, 20, 6


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> pathlib.Path:
  """Noise, but of the first prompts, each half copies of one picture."""
  root = tmp_path_factory.mktemp("given") / "run"
  n = PROMPTS * EACH
  images = store.create(
    root / "sample" / "images", shape=(n, 32, 32, 3), dtype="uint8", chunk=512
  )
  ids = np.arange(n) % PROMPTS  # each prompt lies all over the bank
  for number in range(images.chunks):
    rows = np.arange(n)[images.rows(number)]
    values = np.random.default_rng(number).integers(
      0, 256, (len(rows), 32, 32, 3), dtype=np.uint8
    )
    for i in np.flatnonzero((ids[rows] < MEMORIZED) & (rows < n // 2)):
      one = np.random.default_rng([1, ids[rows[i]]])
      values[i] = one.integers(0, 256, (32, 32, 3)) // 2 + values[i] // 16
    images.write(number, values)
  texts = [f"prompt {i}" for i in range(PROMPTS)]
  bank.write_beside(root / "sample", prompts=texts, prompt_ids=ids)
  meta = {"status": "finished", "config": {}, "inputs": {}}
  workdir.write_json(root / "sample" / "meta.json", meta)
  return root


def _start(root: pathlib.Path) -> subprocess.Popen:
  command = [
    *(sys.executable, "-m", "diffmem.bin.prompts", "--config=folder.py"),
    f"--workdir={root}",
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
  assert workdir.require(root, "prompts")["status"] == "finished"


def _meta(root: pathlib.Path) -> dict:
  file = root / "prompts" / "meta.json"
  return json.loads(file.read_text()) if file.exists() else {}


def test_kills_lose_nothing(given, tmp_path):
  calm, root = given, tmp_path / "killed"
  root.mkdir()
  (root / "sample").symlink_to(calm / "sample")
  _finish(calm)
  seconds = workdir.require(calm, "prompts")["seconds"]
  chance, kept = random.Random(0), set()
  struck = 0
  while struck < KILLS:
    runs = _meta(root).get("runs", 0)
    run = _start(root)
    while _meta(root).get("runs", 0) == runs and run.poll() is None:
      time.sleep(0.002)
    time.sleep(chance.uniform(0, 1.5 * seconds / KILLS))
    run.kill()
    run.communicate()
    if _meta(root)["status"] == "finished":
      break
    struck += 1
    now = {p for p in root.glob("prompts/pairs/*/*") if p.suffix != ".tmp"}
    assert kept <= now, "a group was lost"
    kept = now
  assert struck >= KILLS // 2, f"only {struck} kills struck"
  _finish(root)
  for file in ("results.json", "ranking.csv", "prompts.csv"):
    first, second = (r / "prompts" / file for r in (calm, root))
    assert first.read_text() == second.read_text()
  found = workdir.read_json(root / "prompts" / "results.json")
  assert found["flagged"] == MEMORIZED
  assert found["undecided"] == 0
  assert found["control"]["flagged"] == 0

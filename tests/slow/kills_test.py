# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of every stage, then the same command again.

A calm audit is made once. Then every stage is killed several times, some while
a checkpoint or a chunk is being written, and rerun to its end: weights, bank,
distances and results must be the calm ones, and no line or image doubled.
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

STAGES = (
  "train",
  "sample",
  "distances",
  "extraction",
  "membership",
  "report",
)
KILLS = {
  "train": 8,
  "sample": 6,
  "distances": 3,
  "extraction": 2,
  "membership": 3,
  "report": 2,
}
WRITERS = ("train", "sample")  # killed until one strikes inside a write
# Small images and many small chunks: most of the time something is written.
FLAGS = {
  "models.width": 16,
  "train.steps": 400,
  "train.warmup": 10,
  "train.checkpoint_every": 10,
  "train.preview_every": 200,
  "sample.n": 3000,
  "sample.batch": 16,
  "sample.steps": 4,
  "distances.block": 16,
  "membership.batch": 16,
}


def _start(stage: str, root: pathlib.Path) -> subprocess.Popen:
  command = [
    sys.executable,
    "-m",
    f"diffmem.bin.{stage}",
    "--config=digits.py:debug",
    f"--workdir={root}",
    *(f"--config.{key}={value}" for key, value in FLAGS.items()),
  ]
  return subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=root.parent,
    env=os.environ | {"PYTHONPATH": str(_CHECKOUT)},
  )


_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent


def _finish(stage: str, root: pathlib.Path) -> None:
  run = _start(stage, root)
  said, _ = run.communicate(timeout=600)
  assert run.returncode == 0, said
  assert workdir.require(root, stage)["status"] == "finished"


def _meta(root: pathlib.Path, stage: str) -> dict:
  file = root / stage / "meta.json"
  return json.loads(file.read_text()) if file.exists() else {}


def _writes(root: pathlib.Path, stage: str) -> int:
  """Grows when a checkpoint or a chunk begins to be written."""
  pattern = {
    "train": "train/checkpoints/*",
    "sample": "sample/images/c/*",
    "distances": "distances/*/*/c/*",
    "membership": "membership/signals/main/*/c/*",
  }.get(stage)
  return len(list(root.glob(pattern))) if pattern else 0


def _half_written(root: pathlib.Path, stage: str) -> bool:
  """Whether the kill left a checkpoint or chunk that does not count."""
  if stage == "train":
    return any(root.glob("train/checkpoints/*orbax-checkpoint-tmp*"))
  arrays = {"sample": "images"}
  if stage not in arrays:
    return False
  path = root / stage / arrays[stage]
  if not (path / "zarr.json").exists():
    return False  # struck before the store was made
  array = store.open(path)
  return _writes(root, stage) > len(array.written())


def _kill_once(
  stage: str, root: pathlib.Path, seconds: float, chance: random.Random
) -> str:
  """Starts the stage and kills it at work: "write", "random" or "missed"."""
  before = _meta(root, stage).get("runs", 0)
  run = _start(stage, root)
  while _meta(root, stage).get("runs", 0) == before and run.poll() is None:
    time.sleep(0.002)
  deadline = time.monotonic() + chance.uniform(0, seconds)
  while time.monotonic() < deadline and run.poll() is None:
    time.sleep(0.001)
  if chance.random() < 0.7:  # wait for the next write to begin
    begun, patience = _writes(root, stage), time.monotonic() + seconds
    while run.poll() is None and time.monotonic() < patience:
      if _writes(root, stage) > begun:
        break
  run.kill()
  run.communicate()
  if _meta(root, stage)["status"] != "started":
    return "missed"
  return "write" if _half_written(root, stage) else "random"


def _kill_often(stage, root, seconds, chance) -> list[str]:
  """How the kills of one run struck, spread over its work."""
  landed = []
  seconds *= 1.5 / KILLS[stage]
  while len(landed) < KILLS[stage] or (
    stage in WRITERS and "write" not in landed and len(landed) < 40
  ):
    how = _kill_once(stage, root, seconds, chance)
    if how == "missed":
      # It was done before: begin anew and strike earlier.
      landed, seconds = [], seconds / 2
      _remove(root / stage)
      continue
    landed.append(how)
  return landed


def _remove(folder: pathlib.Path) -> None:
  for file in sorted(folder.rglob("*"), reverse=True):
    file.rmdir() if file.is_dir() else file.unlink()


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("calm") / "run"
  for stage in STAGES:
    _finish(stage, root)
  return root


@pytest.fixture(scope="module")
def killed(calm, tmp_path_factory) -> tuple[pathlib.Path, dict]:
  root = tmp_path_factory.mktemp("killed") / "run"
  chance = random.Random(0)
  landed = {}
  for stage in STAGES:
    seconds = workdir.require(calm, stage)["seconds"]
    landed[stage] = _kill_often(stage, root, seconds, chance)
    _finish(stage, root)
  return root, landed


def test_kills_landed_in_every_stage_and_in_writes(killed):
  _, landed = killed
  assert sum(map(len, landed.values())) >= 20
  assert all(len(landed[stage]) >= KILLS[stage] for stage in STAGES)
  assert "write" in landed["train"]
  assert "write" in landed["sample"]


def test_training_went_on_to_the_same_weights(calm, killed):
  root, _ = killed
  metas = [workdir.require(r, "train") for r in (calm, root)]
  assert metas[0]["weights"] == metas[1]["weights"]
  assert metas[1]["runs"] > KILLS["train"]
  lines = (root / "train" / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(line)["step"] for line in lines]
  assert steps == sorted(set(steps))
  assert steps[-1] == FLAGS["train.steps"]


@pytest.mark.parametrize("name", ["images"])
def test_the_bank_is_bit_identical(calm, killed, name):
  banks = [store.open(r / "sample" / name) for r in (calm, killed[0])]
  assert banks[1].complete()
  banks[1].verify()
  assert (banks[0][:] == banks[1][:]).all()


def test_distances_are_equal(calm, killed):
  found = sorted(p.parent for p in calm.glob("distances/*/*/zarr.json"))
  assert len(found) == 2 * 5
  for path in found:
    other = killed[0] / path.relative_to(calm)
    assert (store.open(path)[:] == store.open(other)[:]).all(), path


@pytest.mark.parametrize(
  "file",
  [
    "extraction/results.json",
    "extraction/matches.csv",
    "extraction/near_misses.csv",
    "membership/results.json",
    "membership/scores.csv",
    "report/matches.csv",
    "report/scores.csv",
  ],
)
def test_results_are_equal(calm, killed, file):
  assert (calm / file).read_text() == (killed[0] / file).read_text()


def test_signals_are_equal(calm, killed):
  found = sorted(calm.glob("membership/signals/*/*/zarr.json"))
  assert len(found) > 5
  for path in (p.parent for p in found):
    other = killed[0] / path.relative_to(calm)
    assert np.array_equal(store.open(path)[:], store.open(other)[:]), path


def test_a_flipped_byte_stops_the_next_stage(killed):
  root, _ = killed
  chunk = root / "sample" / "images" / "c" / "3" / "0" / "0" / "0"
  content = bytearray(chunk.read_bytes())
  content[5] ^= 4
  chunk.write_bytes(content)
  _remove(root / "distances")
  run = _start("distances", root)
  said, _ = run.communicate(timeout=300)
  assert run.returncode == 1
  assert "images/c/3/0/0/0 (rows 48..63) is damaged" in said
  assert "Traceback" not in said

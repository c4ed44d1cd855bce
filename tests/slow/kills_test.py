# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of every stage, then the same command again.

A calm audit is made once. Then every stage is killed several times, some while
a checkpoint or a chunk is being written, and rerun to its end: weights, bank,
distances and results must be the calm ones, and no line or image doubled.
"""

import functools
import json
import pathlib
import shutil

import numpy as np
import pytest

from diffmem import store, workdir
from tests import kills

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
# Killed until one strikes inside a write, and where it writes.
WRITERS = {"train": "train/checkpoints/*", "sample": "sample/images/c/*"}
# Small images and many small chunks: most of the time something is written.
FLAGS = {
  "models.width": 8,
  "models.multipliers": "(1,)",
  "train.steps": 400,
  "train.warmup": 10,
  "train.checkpoint_every": 10,
  "train.preview_every": 200,
  "sample.n": 3000,
  "sample.batch": 16,
  "sample.steps": 4,
  "distances.block": 16,
  "membership.batch": 64,
}


begin = functools.partial(kills.stage, config="digits.py:debug", flags=FLAGS)


def _writes(root: pathlib.Path, stage: str) -> set[pathlib.Path]:
  """Grows when a checkpoint or a chunk begins to be written."""
  return set(root.glob(WRITERS[stage]))


def _half_written(root: pathlib.Path, stage: str) -> bool:
  """Whether the kill left a checkpoint or chunk that does not count."""
  if stage == "train":
    return any(root.glob("train/checkpoints/*orbax-checkpoint-tmp*"))
  path = root / "sample" / "images"
  if not (path / "zarr.json").exists():
    return False  # struck before the store was made
  return len(_writes(root, "sample")) > len(store.open(path).written())


def _kill_often(stage: str, root: pathlib.Path, seconds: float) -> None:
  """Strikes all over the work of a stage, half of the times as it writes."""
  sights = [(functools.partial(kills.runs, root / stage), seconds)]
  if stage in WRITERS:
    sights += [(functools.partial(_writes, root, stage), 0)]
  n = KILLS[stage] // len(sights)
  kills.strike(
    functools.partial(begin, stage, root),
    [sight for sight in sights for _ in range(n)],
    done=functools.partial(kills.finished, root / stage),
    made=(root / stage,),
    enough=lambda: stage not in WRITERS or _half_written(root, stage),
  )


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("calm") / "run"
  for stage in STAGES:
    kills.finish(begin(stage, root))
  return root


@pytest.fixture(scope="module")
def killed(calm, tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("killed") / "run"
  for stage in STAGES:
    seconds = workdir.require(calm, stage)["seconds"]
    _kill_often(stage, root, seconds / KILLS[stage])
    kills.finish(begin(stage, root))
  return root


def test_every_kill_counts(killed):
  for stage, times in KILLS.items():
    assert workdir.require(killed, stage)["runs"] > times


def test_training_went_on_to_the_same_weights(calm, killed):
  metas = [workdir.require(r, "train") for r in (calm, killed)]
  assert metas[0]["weights"] == metas[1]["weights"]
  lines = (killed / "train" / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(line)["step"] for line in lines]
  assert steps == sorted(set(steps))
  assert steps[-1] == FLAGS["train.steps"]


@pytest.mark.parametrize("name", ["images"])
def test_the_bank_is_bit_identical(calm, killed, name):
  banks = [store.open(r / "sample" / name) for r in (calm, killed)]
  assert banks[1].complete()
  banks[1].verify()
  assert (banks[0][:] == banks[1][:]).all()


def test_distances_are_equal(calm, killed):
  found = sorted(p.parent for p in calm.glob("distances/*/*/zarr.json"))
  assert len(found) == 2 * 5
  for path in found:
    other = killed / path.relative_to(calm)
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
  assert (calm / file).read_text() == (killed / file).read_text()


def test_signals_are_equal(calm, killed):
  found = sorted(calm.glob("membership/signals/*/*/zarr.json"))
  assert len(found) > 5
  for path in (p.parent for p in found):
    other = killed / path.relative_to(calm)
    assert np.array_equal(store.open(path)[:], store.open(other)[:]), path


def test_a_flipped_byte_stops_the_next_stage(killed):
  chunk = killed / "sample" / "images" / "c" / "3" / "0" / "0" / "0"
  content = bytearray(chunk.read_bytes())
  content[5] ^= 4
  chunk.write_bytes(content)
  shutil.rmtree(killed / "distances")
  run = begin("distances", killed)
  said, _ = run.communicate(timeout=300)
  assert run.returncode == 1
  assert "images/c/3/0/0/0 (rows 48..63) is damaged" in said
  assert "Traceback" not in said

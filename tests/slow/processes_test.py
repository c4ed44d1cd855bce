# SPDX-License-Identifier: Apache-2.0
"""Two and four real processes: as one, in any number, with one of them killed.

A calm audit by one process of two devices is the measure. Where each process
has two devices too, whatever does not train must be equal to it bit by bit;
training, whose sums are made in another order, within tolerance.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from diffmem import store, workdir
from tests import kills, pods

pytestmark = pytest.mark.slow

TRIES = 20

# Everything small, with many chunks to be divided.
FLAGS = {
  "models.width": 8,
  "train.steps": 60,
  "train.warmup": 10,
  "train.checkpoint_every": 10,
  "train.preview_every": 60,
  "sample.n": 512,
  "sample.batch": 16,
  "sample.steps": 5,
  "distances.block": 64,
  "membership.attacks": "('loss', 'pia')",
  "membership.batch": 64,
  "membership.generated": 0,
}


def start(stage, root, count, *, devices=1, flags=None):
  """Starts a stage in `count` processes."""
  given = FLAGS | (flags or {})
  args = [
    *("-m", f"diffmem.bin.{stage}"),
    f"--config={pods.ROOT / 'configs' / 'digits.py'}:debug",
    f"--workdir={root}",
    *(f"--config.{key}={value}" for key, value in given.items()),
  ]
  return pods.Pod(args, count, devices=devices, cwd=root.parent)


def losses(root):
  lines = (root / "train" / "metrics.jsonl").read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  assert [line["step"] for line in lines] == list(range(5, 61, 5))
  return np.array([line["loss"] for line in lines])


def stores(root):
  return sorted(
    path.parent.relative_to(root) for path in root.rglob("zarr.json")
  )


def same(one, other):
  """Banks, distances, signals and results of two runs are equal."""
  assert stores(one) == stores(other)
  for path in stores(one):
    assert (store.open(one / path)[:] == store.open(other / path)[:]).all(), (
      path
    )
  for name in (
    "extraction/results.json",
    "extraction/matches.csv",
    "membership/results.json",
    "membership/scores.csv",
    "report/matches.csv",
    "report/scores.csv",
  ):
    assert (one / name).read_text() == (other / name).read_text(), name


def with_model_of(calm, root):
  """A workdir that has what training left in another."""
  for name in ("data", "train"):
    shutil.copytree(calm / name, root / name)
  return root


@pytest.fixture(autouse=True)
def _end():
  yield
  pods.end_all()


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
  root = tmp_path_factory.mktemp("calm") / "run"
  start("audit", root, 1, devices=2).finish()
  return root


def test_four_processes_train_and_audit(calm, tmp_path):
  root = tmp_path / "run"
  start("audit", root, 4).finish()
  np.testing.assert_allclose(losses(root), losses(calm), rtol=2e-3)
  for stage in ("train", "sample", "distances", "membership"):
    hardware = workdir.require(root, stage)["hardware"]
    assert hardware["processes"] == 4, stage
  assert workdir.require(root, "train")["hardware"]["devices"] == "4 x cpu"
  assert len(stores(root)) == len(stores(calm))
  assert not list(root.rglob("*.tmp"))


def tried(attempt, folder):
  """(root, what it gave) of the first attempt whose kill came in time."""
  for number in range(TRIES):
    root = folder / str(number)
    found = attempt(root)
    if found:
      return root, found
  raise AssertionError(f"in {TRIES} attempts every kill came too late")


def test_two_processes_kill_one_while_it_samples(calm, tmp_path):
  """The other makes its part, and the same command by one fills the gap."""

  def attempt(root):
    chunks = with_model_of(calm, root) / "sample" / "images" / "c"
    pod = start("sample", root, 2, devices=2)
    kills.until(
      lambda: {p.name for p in chunks.glob("*")} & {*map(str, range(16, 32))},
      pod.processes[1],
    )
    pod.kill(1)
    codes = pod.wait()
    missing = {*range(32)} - {*store.open(chunks.parent).written()}
    return missing and (pod, codes, missing)

  root, (pod, codes, missing) = tried(attempt, tmp_path)
  assert codes[0] == 1
  assert missing <= {*range(16, 32)}
  said = pod.said(0).splitlines()[-1]
  assert f"process 1 (pid {pod.processes[1].pid} on " in said
  assert f"died: {len(missing)} of 32 chunks of the bank are missing" in said
  start("audit", root, 2, devices=2).finish()
  same(calm, root)


def test_a_kill_in_training_is_named_and_any_number_goes_on(calm, tmp_path):
  """By 2 processes, then 1 of one device, then 2 again: the calm losses."""

  def steps(root):
    found = (root / "train" / "checkpoints").glob("*")
    return {p.name for p in found if p.name.isdigit()}

  def killed(root, count, i, **options):
    """A pod, of which process i was killed after a checkpoint; or None."""
    before, pod = steps(root), start("train", root, count, **options)
    kills.until(lambda: steps(root) - before, pod.processes[0])
    pod.kill(i)
    begun = time.monotonic()
    codes = pod.wait()
    assert time.monotonic() - begun < 60
    return None if kills.finished(root / "train") else (pod, codes)

  def attempt(root):
    root.mkdir()
    root /= "run"
    return (first := killed(root, 2, 1, devices=2)) and (
      killed(root, 1, 0) and first
    )

  folder, (pod, codes) = tried(attempt, tmp_path)
  root = folder / "run"
  assert codes[0] == 1
  last = pod.said(0).splitlines()[-1]
  assert f"process 1 (pid {pod.processes[1].pid} on " in last
  assert "died; the same command goes on from here" in last
  start("train", root, 2, devices=2).finish()
  np.testing.assert_allclose(losses(root), losses(calm), rtol=2e-3)
  assert workdir.require(root, "train")["runs"] == 3


def test_killing_process_0_ends_the_others(calm, tmp_path):
  def attempt(root):
    chunks = with_model_of(calm, root) / "sample" / "images" / "c"
    pod = start("sample", root, 3)
    kills.until(chunks.exists, pod.processes[0])
    pod.kill(0)
    codes = pod.wait()
    return None if kills.finished(root / "sample") else (pod, codes)

  _, (pod, codes) = tried(attempt, tmp_path)
  assert codes[1:] == [1, 1]
  for i in (1, 2):
    assert f"process 0 (pid {pod.processes[0].pid} on " in pod.said(i)


def _children(pid):
  """The processes that a process has started."""
  found = subprocess.run(
    ["ps", "-o", "pid=", "--ppid", str(pid)],
    capture_output=True,
    text=True,
    check=False,
  )
  return [int(p) for p in found.stdout.split()]


def _kill_a_random_one(root, stage, seconds, chance):
  """Kills one of two that audit, at most so many seconds into a stage."""
  folder = root / stage
  before = kills.runs(folder)
  pod = start("audit", root, 2, devices=2)
  kills.until(lambda: kills.runs(folder) - before, pod.processes[0])
  moment = time.monotonic() + chance.uniform(0, seconds)
  kills.until(lambda: time.monotonic() >= moment, pod.processes[0])
  victim = pod.processes[chance.randrange(2)]
  if stage == "train" and chance.random() < 0.5 and _children(victim.pid):
    os.kill(_children(victim.pid)[-1], signal.SIGKILL)  # out of memory, say
  else:
    victim.kill()
  begun = time.monotonic()
  codes = pod.wait()
  assert time.monotonic() - begun < 90
  return codes


def test_kills_in_every_stage_end_in_the_results_of_a_calm_run(calm, tmp_path):
  """An audit by two, of which a random one is killed once in each stage."""
  root: pathlib.Path = tmp_path / "run"
  chance = random.Random(0)
  for stage in ("train", "sample", "distances", "membership", "report"):
    seconds = workdir.require(calm, stage)["seconds"] / 4
    for _ in range(TRIES):
      codes = _kill_a_random_one(root, stage, seconds, chance)
      if not kills.finished(root / stage):
        break
      seconds /= 2  # it was done before: begin anew and strike earlier
      shutil.rmtree(root / stage)
    assert codes != [0, 0]
    assert not kills.finished(root / stage)
  start("audit", root, 2, devices=2).finish()
  np.testing.assert_allclose(losses(root), losses(calm), rtol=2e-3)
  whole = with_model_of(root, tmp_path / "whole")
  start("audit", whole, 1, devices=2).finish()
  same(whole, root)

# SPDX-License-Identifier: Apache-2.0
"""Two and four real processes: as one, in any number, with one of them killed.

A calm audit by one process of two devices is the measure. Where each process
has two devices too, whatever does not train must be equal to it bit by bit;
training, whose sums are made in another order, within tolerance.
"""

import functools
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
from tests import pods

pytestmark = pytest.mark.slow

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


def test_two_processes_kill_one_while_it_samples(calm, tmp_path):
  """The other makes its part, and the same command by one fills the gap."""
  root = with_model_of(calm, tmp_path / "run")
  chunks = root / "sample" / "images" / "c"
  pod = start("sample", root, 2, devices=2)

  def halfway():
    there = {int(p.name) for p in chunks.iterdir()} if chunks.exists() else {0}
    return bool(there & {*range(16, 32)})

  pods.until(halfway, pod.processes[1])
  pod.kill(1)
  assert pod.wait()[0] == 1
  said = pod.said(0).splitlines()[-1]
  images = store.open(root / "sample" / "images")
  missing = sorted({*range(32)} - {*images.written()})
  assert set(missing) <= {*range(16, 32)}
  assert missing
  assert f"process 1 (pid {pod.processes[1].pid} on " in said
  assert f"died: {len(missing)} of 32 chunks of the bank are missing" in said
  start("audit", root, 2, devices=2).finish()
  same(calm, root)


def test_a_kill_in_training_is_named_and_any_number_goes_on(calm, tmp_path):
  """By 2 processes, then 1 of one device, then 2 again: the calm losses."""
  root = tmp_path / "run"
  checkpoints = root / "train" / "checkpoints"
  pod = start("train", root, 2, devices=2)
  pods.until((checkpoints / "10").exists, pod.processes[0])
  pod.kill(1)
  begun = time.monotonic()
  assert pod.wait()[0] == 1
  assert time.monotonic() - begun < 60
  last = pod.said(0).splitlines()[-1]
  assert f"process 1 (pid {pod.processes[1].pid} on " in last
  assert "died; the same command goes on from here" in last
  _stop_after_a_checkpoint(start("train", root, 1), checkpoints)
  start("train", root, 2, devices=2).finish()
  np.testing.assert_allclose(losses(root), losses(calm), rtol=2e-3)
  assert workdir.require(root, "train")["runs"] == 3


def _stop_after_a_checkpoint(pod, checkpoints):
  def steps():
    return {p.name for p in checkpoints.iterdir() if p.name.isdigit()}

  before = steps()
  pods.until(lambda: steps() - before, pod.processes[0])
  pod.kill(0)


def test_killing_process_0_ends_the_others(calm, tmp_path):
  root = with_model_of(calm, tmp_path / "run")
  pod = start("sample", root, 3)
  chunks = root / "sample" / "images" / "c"
  pods.until(chunks.exists, pod.processes[0])
  pod.kill(0)
  assert pod.wait()[1:] == [1, 1]
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


def _opened(root, stage):
  return (root / stage / "meta.json").exists()


def test_kills_in_every_stage_end_in_the_results_of_a_calm_run(calm, tmp_path):
  """An audit by two, of which a random one is killed once in each stage."""
  root: pathlib.Path = tmp_path / "run"
  chance = random.Random(0)
  for stage in ("train", "sample", "distances", "membership", "report"):
    pod = start("audit", root, 2, devices=2)
    opened = functools.partial(_opened, root, stage)
    pods.until(opened, pod.processes[0], every=0.01)
    time.sleep(chance.uniform(0, 1))
    victim = pod.processes[chance.randrange(2)]
    if stage == "train" and chance.random() < 0.5 and _children(victim.pid):
      os.kill(_children(victim.pid)[-1], signal.SIGKILL)  # out of memory, say
    else:
      victim.kill()
    begun = time.monotonic()
    codes = pod.wait()
    assert time.monotonic() - begun < 90
    assert codes != [0, 0] or stage == "report"
  start("audit", root, 2, devices=2).finish()
  np.testing.assert_allclose(losses(root), losses(calm), rtol=2e-3)
  whole = with_model_of(root, tmp_path / "whole")
  start("audit", whole, 1, devices=2).finish()
  same(whole, root)

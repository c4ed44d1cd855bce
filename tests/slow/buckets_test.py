# SPDX-License-Identifier: Apache-2.0
"""Whole audits in a bucket, killed between writes and with failing requests.

One audit is made calmly in a local folder, and one in a bucket where a request
in fifty fails and the program is killed at chosen writes: within a checkpoint,
between chunks of the bank, between chunks of a signal. Results must be equal.
Waits, for a request that failed and for the lease of a dead run, are shortened.
"""

import itertools
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import kills, object_store

pytestmark = pytest.mark.slow
pytest.importorskip("gcsfs", reason="needs the extra [gcs]")

# What is about to be written when the program is killed.
STRIKES = (
  "run/train/checkpoints/20/commit_success.txt",
  "run/sample/images/c/1/0/0/0",
  "run/membership/signals/main/losses/c/2/",
)
FLAGS = (
  "--config=digits.py:debug",
  "--config.models.width=8",
  "--config.models.multipliers=(1,)",
  "--config.membership.attacks=('loss', 'secmi')",  # the others take minutes
)
TABLES = (
  "extraction/results.json",
  "extraction/matches.csv",
  "membership/results.json",
  "membership/scores.csv",
  "report/matches.csv",
  "report/scores.csv",
)
AUDIT = """
import gcsfs.retry
from diffmem import lease, retry
from diffmem.bin import audit
gcsfs.retry.min = lambda *_: 0.01
retry.FIRST = 0.01
quick = {"initial_delay": "10ms", "max_delay": "40ms"}
retry.TENSORSTORE["gcs_request_retries"] |= quick
lease.BEAT, lease.EXPIRY = 2.0, 20.0
audit.start()
"""


def _start(*flags: str) -> subprocess.Popen:
  return kills.start(("-c", AUDIT, *flags), kills.ROOT)


def _audit(*flags: str) -> str:
  return kills.finish(_start(*flags))


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
  folder = tmp_path_factory.mktemp("calm") / "run"
  _audit(*FLAGS, f"--workdir={folder}")
  return folder


@pytest.fixture(scope="module")
def server():
  with object_store.serve() as server:
    yield server


class _Harm:
  """Fails one request in fifty, and kills a run at one of its writes."""

  def __init__(self, run: subprocess.Popen, strike: str | None):
    self.run, self.strike = run, strike
    self.count = itertools.count(1)

  def __call__(self, method: str, key: str) -> int | None:
    writes = method in ("POST", "PUT")
    if self.strike and writes and key.startswith(self.strike):
      self.run.send_signal(signal.SIGKILL)
      return object_store.DROP
    return 503 if next(self.count) % 50 == 0 else None


@pytest.fixture(scope="module")
def harmed(server) -> tuple[dict[str, bytes], list[str]]:
  """Objects of the audit in the bucket, and what each run of it said."""
  said = []
  for strike in (*STRIKES, None):
    run = _start(*FLAGS, "--workdir=gs://bucket/run")
    server.fault = _Harm(run, strike)
    said.append(run.communicate(timeout=900)[0])
    assert run.returncode == (-signal.SIGKILL if strike else 0), said[-1]
    locks = [key for key in server.files() if key.endswith("/.lock")]
    assert len(locks) == bool(strike)
    if strike and strike != STRIKES[0]:
      del server.objects[locks[0]]  # once is enough to wait out a lease
  return server.files("run/"), said


def test_a_dead_runs_lease_was_taken_over(harmed):
  assert "which died" in harmed[1][1]
  assert "goes on from the checkpoint of step 10" in harmed[1][1]


def test_results_are_those_of_a_calm_local_run(calm, harmed):
  for name in TABLES:
    assert harmed[0][name] == (calm / name).read_bytes(), name
  chunks = [p for p in calm.rglob("c/**/*") if p.is_file()]
  assert len(chunks) > 20
  for path in chunks:
    name = path.relative_to(calm).as_posix()
    assert harmed[0][name] == path.read_bytes(), name


def test_what_lies_in_the_bucket_is_what_lies_in_a_folder(calm, harmed):
  local = {p.relative_to(calm).as_posix() for p in calm.rglob("*")}
  steps = "train/checkpoints/"  # laid out by orbax, otherwise in a bucket
  there = {name for name in harmed[0] if not name.startswith(steps)}
  files = {n for n in local if (calm / n).is_file() and steps not in n}
  assert there == {n for n in files if not n.endswith("/.lock")}


def test_lines_of_metrics_are_neither_lost_nor_doubled(calm, harmed):
  def steps(text):
    return [line.partition(b",")[0] for line in text.splitlines()]

  name = "train/metrics.jsonl"
  assert steps(harmed[0][name]) == steps((calm / name).read_bytes())


def test_images_of_this_machine_and_a_workdir_in_a_bucket(server, tmp_path):
  server.fault = lambda method, key: None
  images = np.random.default_rng(0).integers(0, 256, (48, 8, 8), np.uint8)
  images[40:] = images[:8]  # generations that are training images
  for name, rows in (("data", images[:24]), ("sample", images[24:])):
    (tmp_path / name).mkdir()
    for i, image in enumerate(rows):
      Image.fromarray(image).save(tmp_path / name / f"{i:02d}.png")
  _audit(
    "--config=folder.py:debug",
    f"--config.sample.path={tmp_path}/sample",
    f"--config.data.path={tmp_path}/data",
    "--config.extraction.neighbours=5",
    "--workdir=gs://bucket/mine",
  )
  found = server.files("mine/")
  assert b'"unique": 8' in found["report/results.json"]
  assert len(found["report/index.html"]) > 10_000
  assert not any("decoded" in name for name in found)


@pytest.mark.parametrize("stage", ["train", "sample", "report"])
def test_a_bucket_that_is_not_there_ends_in_one_line(server, stage):
  run = subprocess.run(
    [
      *(sys.executable, "-m", f"diffmem.bin.{stage}"),
      *("--config=digits.py:debug", "--workdir=gs://nonesuch/run"),
    ],
    capture_output=True,
    text=True,
    cwd=kills.ROOT,
    timeout=60,
    check=False,
  )
  assert run.returncode == 1
  assert "there is no bucket 'nonesuch'" in run.stderr
  assert len(run.stderr.strip().splitlines()) == 1, run.stderr

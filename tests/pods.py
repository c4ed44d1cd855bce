# SPDX-License-Identifier: Apache-2.0
"""Several real processes of one program on this machine."""

import os
import pathlib
import subprocess
import sys
import time

started = []  # every pod, so that none outlives its test
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Pod:
  """N processes of `python ARGS --processes=N --process=I`, started at once.

  Args:
    args: what Python runs, its own flags with it.
    count: how many processes; one gets no flags of processes.
    devices: virtual devices of each.
    cwd: where they run.
    flags: number -> flags of one process alone.
  """

  def __init__(self, args, count, *, devices=2, cwd=None, flags=None):
    flags = flags or {}
    env = {
      **os.environ,
      "PYTHONPATH": str(ROOT),
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": str(devices),
    }
    self.logs, self.processes = [], []
    started.append(self)
    for i in range(count):
      many = [f"--processes={count}", f"--process={i}"] if count > 1 else []
      log = pathlib.Path(cwd or ".") / f"pod.{id(self)}.{i}.log"
      self.logs.append(log)
      with log.open("w") as out:
        self.processes.append(
          subprocess.Popen(
            [sys.executable, *args, *many, *flags.get(i, [])],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
          )
        )

  def said(self, i):
    """What process i has written so far."""
    return self.logs[i].read_text()

  def kill(self, i):
    """SIGKILL, as a machine that is gone."""
    self.processes[i].kill()
    self.processes[i].wait()

  def end(self):
    """Ends those that are still there."""
    for process in self.processes:
      process.kill()
      process.wait()

  def wait(self, timeout=900):
    """Exit statuses, when all have ended."""
    deadline = time.monotonic() + timeout
    return [
      p.wait(max(0.1, deadline - time.monotonic())) for p in self.processes
    ]

  def finish(self, timeout=900):
    """Waits; AssertionError with what was said where one has failed."""
    codes = self.wait(timeout)
    assert codes == [0] * len(codes), "\n".join(
      f"== {i}\n{self.said(i)}" for i in range(len(codes))
    )


def end_all():
  """Ends what a test has left."""
  while started:
    started.pop().end()

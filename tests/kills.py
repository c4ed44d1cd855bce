# SPDX-License-Identifier: Apache-2.0
"""Programs that are killed at work, and started again.

A kill waits for work that is seen (a run counted in its meta.json, a chunk),
then for a random while. Where the program was done before, whiles become half
as long and all begins anew: a machine may be quick or slow.
"""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRIES = 60


def start(args, cwd) -> subprocess.Popen:
  """Starts Python with these arguments."""
  return subprocess.Popen(
    [sys.executable, *args],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=cwd,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )


def stage(name, root, *, config, flags=None) -> subprocess.Popen:
  """Starts a binary on a workdir, beside it."""
  given = (f"--config.{k}={v}" for k, v in (flags or {}).items())
  args = ("-m", f"diffmem.bin.{name}", f"--config={config}", *given)
  return start((*args, f"--workdir={root}"), root.parent)


def finish(run, timeout=900) -> str:
  """What a run said; AssertionError where it failed."""
  try:
    said, _ = run.communicate(timeout=timeout)
  finally:
    run.kill()  # where it did not end
  assert run.returncode == 0, said
  return said


def meta(folder) -> dict:
  """The meta.json of a folder, empty where there is none yet."""
  file = folder / "meta.json"
  return json.loads(file.read_text()) if file.exists() else {}


def runs(*folders) -> set:
  """(folder, number) of the last run that has begun in each."""
  return {(folder, meta(folder).get("runs", 0)) for folder in folders}


def finished(folder) -> bool:
  """Whether the work of a folder is done."""
  return meta(folder).get("status") == "finished"


def until(true, run, timeout=900) -> None:
  """Waits for something, or for the end of a run."""
  deadline = time.monotonic() + timeout
  while not true() and run.poll() is None:
    assert time.monotonic() < deadline, f"nothing was seen within {timeout} s"
    time.sleep(0.002)


def look(sight) -> set:
  """What is seen; once more where a folder vanished while it was read."""
  while True:
    try:
      return sight()
    except FileNotFoundError:
      time.sleep(0.001)


def strike(begin, sights, *, done, made, keeps=set, enough=lambda: True):
  """Kills a program once for each sight, then leaves it killed.

  Args:
    begin: starts the program.
    sights: pairs of a function and seconds. It gives a set, which gains a
      member when work is seen; the kill follows within as many seconds.
    done: whether the program has nothing left to do: the kill came too late.
    made: folders of the program's, removed where it was done too early.
    keeps: the set of what may not be lost by a kill, nor by the next run.
    enough: the last sight is repeated until this is true of a kill.
  """
  chance, struck, share, kept = random.Random(0), 0, 1.0, set()
  for _ in range(TRIES):
    sight, longest = sights[min(struck, len(sights) - 1)]
    before, run = look(sight), begin()
    try:
      until(lambda: look(sight) - before, run)  # noqa: B023
      moment = time.monotonic() + chance.uniform(0, share * longest)
      until(lambda: time.monotonic() >= moment, run)  # noqa: B023
    finally:
      run.kill()
    said, _ = run.communicate()
    assert run.returncode in (0, -9), said
    if done():
      struck, share, kept = 0, share / 2, set()
      for folder in made:
        shutil.rmtree(folder, ignore_errors=True)
      continue
    now = keeps()
    assert kept <= now, f"lost, or made again: {sorted(kept - now)}"
    kept, struck = now, struck + 1
    if struck >= len(sights) and enough():
      return
  raise AssertionError(
    f"{struck} of {len(sights)} kills struck, in {TRIES} runs"
  )

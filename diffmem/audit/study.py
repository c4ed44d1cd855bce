# SPDX-License-Identifier: Apache-2.0
"""Many audits for one table: each arm of a study, once for each seed.

An arm is a config of `diffmem-audit` with its overrides, the seed left open as
{seed}. Each run is a program of its own in <root>/runs/<arm>_<seed>, as anybody
would start it, several at a time; its output is in <root>/runs/<name>.log, and
command.json says what was run and what it took. Runs that have finished are
kept, the others go on from where they stopped.

Writes <root>/claims (`diffmem.report.study`).
"""

import concurrent.futures
import dataclasses
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from etils import epath

import diffmem
from diffmem import processes, workdir
from diffmem.progress import Progress
from diffmem.report import study

_log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-m", "diffmem.bin.audit")


@dataclasses.dataclass(frozen=True)
class Run:
  """One audit: of an arm, with a seed; its config and its overrides."""

  arm: str
  seed: int
  config: str
  flags: tuple[str, ...]

  @property
  def name(self) -> str:
    return f"{self.arm}_{self.seed}"

  @property
  def arguments(self) -> list[str]:
    """What follows `diffmem-audit`, but for the workdir."""
    return [
      f"--config={self.config}",
      *(f"--config.{flag}" for flag in self.flags),
    ]


@processes.led
def run(
  root: str | os.PathLike, *, claims: dict, progress: bool = True
) -> None:
  """Runs what is missing and writes <root>/claims.

  Args:
    root: the workdir; a local folder, unless `claims.stored` is given.
    claims: the config section, as a plain dict. stored: a file of earlier
      measurements, in the place of runs.
    progress: show how many runs have finished and the time left.

  Raises:
    ValueError: a setting that cannot be, or a run that another command made.
    RuntimeError: some runs failed; what they said is named, and what finished
      is kept.
  """
  if claims["jobs"] < 1:
    raise ValueError(f"claims.jobs={claims['jobs']}: expected 1 or more")
  if claims["stored"] is None:
    wanted = runs(claims["arms"])
    folder = workdir.path(root) / "runs"
    if not workdir.is_local(folder):
      raise ValueError(
        f"--workdir={root}: runs are programs of their own, which need a "
        "local folder"
      )
    _run_all(folder, wanted, jobs=claims["jobs"], progress=progress)
    observed = study.observe(folder, [(r.arm, r.seed) for r in wanted])
  else:
    observed = study.read(claims["stored"])
  study.write(root, observed)


def runs(arms: dict[str, dict]) -> list[Run]:
  """All runs, seed by seed, so that a study cut short has whole seeds.

  Raises ValueError for an arm without seeds.
  """
  for name, arm in arms.items():
    if arm["seeds"] < 1:
      raise ValueError(
        f"claims.arms.{name}.seeds={arm['seeds']}: expected 1 or more"
      )
  most = max((arm["seeds"] for arm in arms.values()), default=0)
  return [
    Run(name, i, arm["config"].format(seed=i), tuple(arm["flags"]))
    for i in range(most)
    for name, arm in arms.items()
    if i < arm["seeds"]
  ]


def _run_all(
  folder: epath.Path, wanted: Sequence[Run], *, jobs: int, progress: bool
) -> None:
  """Runs those that have not finished, `jobs` at a time."""
  missing = [r for r in wanted if not _finished(folder / r.name, r)]
  started: list[subprocess.Popen] = []
  stop = threading.Event()
  failed: list[str] = []
  done = len(wanted) - len(missing)
  folder.mkdir(parents=True, exist_ok=True)
  with (
    Progress(
      len(wanted), what="claims", unit="runs", done=done, enabled=progress
    ) as bar,
    concurrent.futures.ThreadPoolExecutor(jobs) as pool,
  ):
    waiting = {pool.submit(_run, folder, r, started, stop): r for r in missing}
    try:
      for future in concurrent.futures.as_completed(waiting):
        name = waiting[future].name
        if (code := future.result()) != 0:
          failed.append(f"{folder / name}.log (exit status {code})")
          _log.warning("claims: %s failed", name)
        bar.update(1, run=name)
    except BaseException:
      stop.set()
      for program in started:
        program.terminate()
      raise
  if failed:
    raise RuntimeError(
      f"{len(failed)} of {len(wanted)} runs failed, see {', '.join(failed)}; "
      "the others are kept, and the same command goes on"
    )


def _run(
  folder: epath.Path,
  wanted: Run,
  started: list[subprocess.Popen],
  stop: threading.Event,
) -> int:
  """Runs one audit; its exit status."""
  if stop.is_set():
    return -1
  place = folder / wanted.name
  command = [*PROGRAM, *wanted.arguments, f"--workdir={place}"]
  begun = time.monotonic()
  with open(f"{place}.log", "ab") as log:
    program = subprocess.Popen(
      command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    started.append(program)
    _, status, used = os.wait4(program.pid, 0)
  program.returncode = os.waitstatus_to_exitcode(status)
  if program.returncode == 0:
    workdir.write_json(
      place / "command.json",
      {
        "arguments": wanted.arguments,
        "seconds": round(time.monotonic() - begun, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "version": diffmem.__version__,
        "commit": workdir.commit(),
        "hardware": workdir.hardware(),
      },
    )
  return program.returncode


def _finished(place: epath.Path, wanted: Run) -> bool:
  """Whether this very run has finished here.

  Raises ValueError where another one has.
  """
  file = place / "command.json"
  if not file.exists():
    return False
  found = workdir.read_json(file)["arguments"]
  if found != wanted.arguments:
    raise ValueError(
      f"{place} holds a run of {' '.join(found)}, expected "
      f"{' '.join(wanted.arguments)}: delete it, or give another --workdir"
    )
  return True

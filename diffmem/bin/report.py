# SPDX-License-Identifier: Apache-2.0
"""Writes one page about the run, for people, and its results as JSON and CSV.

Reads the result files of the stages that ran; writes <workdir>/report.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem import processes
  from diffmem.report import run

  program.call(run.run, config, workdir)
  if processes.leads():
    print(run.headline(workdir))


def start() -> None:
  """The console command diffmem-report."""
  program.start("report", main)


if __name__ == "__main__":
  start()

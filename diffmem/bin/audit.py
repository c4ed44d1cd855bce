# SPDX-License-Identifier: Apache-2.0
"""Runs the whole audit: every stage of the config, in order.

Writes all folders of the workdir, ending in <workdir>/report/index.html.
Stages that finished before are kept; the same command goes on from where it
stopped.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs all stages on a plain config."""
  from diffmem import audit, processes
  from diffmem.report import run

  audit.run(workdir, **config)
  if processes.leads():
    print(run.headline(workdir))


def start() -> None:
  """The console command diffmem-audit."""
  program.start("audit", main)


if __name__ == "__main__":
  start()

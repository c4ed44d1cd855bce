# SPDX-License-Identifier: Apache-2.0
"""Tries what the papers claim: many small audits, one table.

Runs the audits in --config.claims.arms that have not finished, in
<workdir>/runs, and writes <workdir>/claims: claims.md, claims.json,
observed.json (what was measured of each run, from which the table is made) and
claims.svg. With --config.claims.stored=FILE, an observed.json of before,
nothing is run.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the study on a plain config."""
  from diffmem import processes
  from diffmem.audit import study
  from diffmem.report import study as report

  program.call(study.run, config, workdir)
  if processes.leads():
    print(report.headline(workdir))


def start() -> None:
  """The console command diffmem-claims."""
  program.start("claims", main)


if __name__ == "__main__":
  start()

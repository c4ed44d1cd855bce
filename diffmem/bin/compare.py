# SPDX-License-Identifier: Apache-2.0
"""Puts finished runs side by side: one page, one table.

Reads the result files of the workdirs in --config.compare.workdirs; writes
<workdir>/compare: index.html, table.csv and results.json.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the comparison on a plain config."""
  from diffmem import processes
  from diffmem.report import compare

  program.call(compare.run, config, workdir)
  if processes.leads():
    print(compare.headline(workdir))


def start() -> None:
  """The console command diffmem-compare."""
  program.start("compare", main)


if __name__ == "__main__":
  start()

# SPDX-License-Identifier: Apache-2.0
"""Finds the nearest images of the split for each generation, exactly.

Reads <workdir>/data and <workdir>/sample; writes <workdir>/distances.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem import audit

  program.call(audit.find_neighbours, config, workdir)


def start() -> None:
  """The console command diffmem-distances."""
  program.start("distances", main)


if __name__ == "__main__":
  start()

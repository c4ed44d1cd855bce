# SPDX-License-Identifier: Apache-2.0
"""Measures when models copy: over labels, training set sizes and time.

Reads the data of the config; trains models of its own, alike but for what is
varied; writes <workdir>/measures.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem.extraction import measures_run

  program.call(measures_run.run, config, workdir)


def start() -> None:
  """The console command diffmem-measures."""
  program.start("measures", main)


if __name__ == "__main__":
  start()

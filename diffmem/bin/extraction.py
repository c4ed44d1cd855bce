# SPDX-License-Identifier: Apache-2.0
"""Finds which generations are training images.

Reads <workdir>/data, sample and distances; writes <workdir>/extraction. The
same rule searches as many held-out images: the false matches.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem.extraction import run

  program.call(run.run, config, workdir)


def start() -> None:
  """The console command diffmem-extraction."""
  program.start("extraction", main)


if __name__ == "__main__":
  start()

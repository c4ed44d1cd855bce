# SPDX-License-Identifier: Apache-2.0
"""Hides a part of training images and lets the models fill it in.

Reads <workdir>/data and train, or shadows; writes <workdir>/inpaint.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem.extraction import inpaint_run

  program.call(inpaint_run.run, config, workdir)


def start() -> None:
  """The console command diffmem-inpaint."""
  program.start("inpaint", main)


if __name__ == "__main__":
  start()

# SPDX-License-Identifier: Apache-2.0
"""Finds prompts whose generations show the same image again and again.

Reads <workdir>/sample, and <workdir>/data and distances where there are some;
writes <workdir>/prompts. It needs no training images and no model.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem.extraction import prompts_run

  program.call(prompts_run.run, config, workdir)


def start() -> None:
  """The console command diffmem-prompts."""
  program.start("prompts", main)


if __name__ == "__main__":
  start()

# SPDX-License-Identifier: Apache-2.0
"""Tells members from non-members with the trained model.

Reads <workdir>/data and <workdir>/train; writes <workdir>/membership.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem.membership import run

  program.call(run.run, config, workdir)


def start() -> None:
  """The console command diffmem-membership."""
  program.start("membership", main)


if __name__ == "__main__":
  start()

# SPDX-License-Identifier: Apache-2.0
"""Extracts from a model that takes no condition by giving it one (SIDE).

Reads <workdir>/train, and data to score, or those of the shadow models;
writes <workdir>/side: what the model makes, its clusters, classifiers of them,
guided banks, and how often they hold training images.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem.extraction import side_run

  program.call(side_run.run, config, workdir)


def start() -> None:
  """The console command diffmem-side."""
  program.start("side", main)


if __name__ == "__main__":
  start()

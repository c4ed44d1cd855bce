# SPDX-License-Identifier: Apache-2.0
"""Samples images from the trained model into a bank.

Reads <workdir>/train; writes <workdir>/sample. Image i is a function of the
weights, the seed and i; the same command makes the ids that are missing.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem.sample import run

  run.run(
    workdir,
    seed=config["seed"],
    sample=config["sample"],
  )


def start() -> None:
  """The console command diffmem-sample."""
  program.start("sample", main)


if __name__ == "__main__":
  start()

# SPDX-License-Identifier: Apache-2.0
"""Makes a bank of images, or imports one that somebody else made.

Writes <workdir>/sample. From <workdir>/train, image i is a function of the
weights, the seed and i. A config with sample.path (say folder.py) imports a
folder, zip, tar, zarr, npz or tfds of images; one with sample.pipeline draws
from an outside pipeline. The same command makes what is missing.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem.sample import run

  program.call(run.run, config, workdir)


def start() -> None:
  """The console command diffmem-sample."""
  program.start("sample", main)


if __name__ == "__main__":
  start()

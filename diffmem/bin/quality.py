# SPDX-License-Identifier: Apache-2.0
"""Measures how good generated images are, beside real ones.

Reads <workdir>/sample and <workdir>/data, and the denoiser of <workdir>/train
where there is one; writes <workdir>/quality: Frechet distance, precision and
recall, density and coverage on features, and losses of held-out images.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem.quality import run

  program.call(run.run, config, workdir)


def start() -> None:
  """The console command diffmem-quality."""
  program.start("quality", main)


if __name__ == "__main__":
  start()

# SPDX-License-Identifier: Apache-2.0
"""Trains a diffusion model on a split of the data.

Reads the source; writes <workdir>/data and <workdir>/train. The same command
goes on from the last checkpoint. With shadow models (data.split.shadows) all
are trained in turn; data.split.shadow=I trains that one alone, in
<workdir>/shadows/I.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem import audit

  program.call(audit.fit_model, config, workdir)


def start() -> None:
  """The console command diffmem-train."""
  program.start("train", main)


if __name__ == "__main__":
  start()

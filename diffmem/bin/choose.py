# SPDX-License-Identifier: Apache-2.0
"""Chooses prompts among captions: most duplicated, outliers, ordinary ones.

Reads <workdir>/data; writes <workdir>/choose with prompts_chosen.csv, a file of
prompts that the sample stage reads. It needs no model.
"""

from diffmem.bin import program


def main(config: dict, workdir: str) -> None:
  """Runs the stage on a plain config."""
  from diffmem import audit

  program.call(audit.choose_prompts, config, workdir)


def start() -> None:
  """The console command diffmem-choose."""
  program.start("choose", main)


if __name__ == "__main__":
  start()

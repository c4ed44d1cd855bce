# SPDX-License-Identifier: Apache-2.0
"""Says what an experiment would cost: time, memory, disk, and its bottleneck.

Nothing is trained. Work is counted from the config; what a unit of it takes is

  --hardware=here      measured on this machine, in a minute or two, and kept
                       in <workdir>/plan/rates.json (default)
  --hardware=h100      or another device that is stated by its published peak,
                       not measured: a100, h100, tpu-v5e

  --devices=N          devices that share the work; default 1
  --utilisation=U      share of the published peak that is reached, assumed
  --images=NxHxWxC     what data.source holds, where it is not at hand

Writes <workdir>/plan/plan.json. See docs/scaling.md.
"""

import sys
from typing import Any

from absl import flags

from diffmem.bin import program

flags.DEFINE_string("hardware", "here", "here, a100, h100 or tpu-v5e")
flags.DEFINE_integer("devices", 1, "devices that share the work", lower_bound=1)
flags.DEFINE_float("utilisation", None, "assumed share of the peak")
flags.DEFINE_string("images", None, "NxHxWxC of data.source")

OWN = ("hardware", "devices", "utilisation", "images")


def main(config: dict, workdir: str) -> None:
  """Prints the plan of a plain config."""
  from diffmem import processes
  from diffmem.audit import planning

  given: dict[str, Any] = {name: flags.FLAGS[name].value for name in OWN}
  lines = planning.run(workdir, config=config, **given)
  if processes.leads():
    print("\n".join(lines))


def start() -> None:
  """The console command diffmem-plan."""
  for name in OWN:
    flag = flags.FLAGS[name]
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  program.start("plan", main)


if __name__ == "__main__":
  start()

# SPDX-License-Identifier: Apache-2.0
"""Turns weights trained in PyTorch into a trained model of a workdir.

Reads --checkpoint, a file .npz, .safetensors or .pt (the last two need
"diffmem[torch]") in the layout of github.com/w86763777/pytorch-ddpm, and the
source of the data; writes <workdir>/data and <workdir>/train as diffmem-train
would. Every later stage with the same config goes on from there:

  diffmem-convert --config=cifar10_ddpm.py:split=secmi-cifar10,path=SPLIT.npz
    --checkpoint=ckpt.pt --workdir=runs/secmi
"""

import sys

from absl import flags

from diffmem.bin import program

flags.DEFINE_string("checkpoint", None, "file of weights to convert")


def main(config: dict, workdir: str) -> None:
  """Runs the conversion on a plain config."""
  if not flags.FLAGS.checkpoint:
    raise ValueError(
      "--checkpoint is missing: give the file of weights, say "
      "--checkpoint=ckpt.npz"
    )
  from diffmem.train import adopt

  program.call(adopt.run, config, workdir, source=flags.FLAGS.checkpoint)


def start() -> None:
  """The console command diffmem-convert."""
  flag = flags.FLAGS["checkpoint"]
  flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  program.start("convert", main)


if __name__ == "__main__":
  start()

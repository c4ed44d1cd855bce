# SPDX-License-Identifier: Apache-2.0
"""Whether rates predict: a run of eight times the largest fitted size.

  python benchmarks/plan.py [--config=digits.py] [--jobs=train,sample,...]
      [--operations=4e9]
  python benchmarks/plan.py --memory
  python benchmarks/plan.py --count    # needs the extra [torch]

Every job of `diffmem-plan` is run at its sizes and at eight times the largest,
in turns, so that a machine that others use as well disturbs all alike. Printed
are the seconds that the fit to the small sizes predicts, those measured, and
their ratio, by the clock and in CPU seconds of the process. The bar is 0.75 to
1.25 of CPU seconds.

With --memory: bytes beside the state that a training step is planned to need,
and what XLA allots to the compiled step (`memory_analysis`), at the config's
batch.

With --count: operations of one call of Stable Diffusion 1's network and of its
decoder, as PyTorch counts them for diffusers' classes of that size, without
weights or memory. They stand in configs/plan.py.
"""

import argparse
from typing import Any

import jax
import numpy as np

from diffmem.audit import rates, work
from diffmem.bin import program
from diffmem.train import run as training

SHAPES = {
  "digits.py": (1797, (8, 8, 1)),
  "cifar10_ddpm.py": (50_000, (32, 32, 3)),
}


def table(name: str, wanted: list[str]) -> None:
  """Prints a line for each job."""
  config = program.load_config(name).to_dict()
  n, shape = SHAPES.get(name.partition(":")[0]) or work.size(
    None, config["data"]
  )
  print(
    f"jax {jax.__version__}, {jax.devices()}, {name}, {n} images of {shape}"
  )
  for build in rates.builders(config, work.parts(config, shape)):
    job = build()
    if wanted and job.name.split()[0] not in wanted:
      continue
    rate, ends = rates.beyond(job)
    wall, cpu = (
      f"{predicted:8.2f} s predicted, {measured:8.2f} s measured, ratio "
      f"{measured / predicted:.3f}"
      for predicted, measured in ends
    )
    left = ", ".join(f"{100 * r:+.0f}%" for r in rate.cpu.residuals)
    amounts = ", ".join(f"{v:,.0f} {k}" for k, v in job.beyond.items())
    print(f"{job.name:16} {amounts}")
    print(f"{'':16} wall {wall}")
    print(f"{'':16} CPU  {cpu}   residuals {left}; {job.of}", flush=True)


def memory(name: str) -> None:
  """Prints a line for each network that the config trains."""
  config = program.load_config(name).to_dict()
  _, shape = SHAPES.get(name) or work.size(None, config["data"])
  for part in work.parts(config, shape):
    batch = part.sections.train["batch"]
    step = training.program(part.shape, **part.sections.config)
    state = jax.eval_shape(step.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch, *part.shape), np.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    jitted: Any = step.step
    compiled = jitted.lower(state, {"image": images}, key).compile()
    allotted = compiled.memory_analysis().temp_size_in_bytes
    planned = part.cost.kept * batch + 4 * part.cost.params
    print(
      f"{name} {part.name}: planned {planned / 1e6:.1f} MB, XLA "
      f"{allotted / 1e6:.1f} MB, ratio {planned / allotted:.2f}"
    )


def count() -> None:
  """Prints weights and operations of Stable Diffusion 1."""
  import diffusers
  import torch
  from torch.utils import flop_counter

  widths = (320, 640, 1280, 1280)
  with torch.device("meta"), torch.no_grad():
    network = diffusers.UNet2DConditionModel(
      sample_size=64,
      block_out_channels=widths,
      cross_attention_dim=768,
      attention_head_dim=8,
    )
    decoder = diffusers.AutoencoderKL(
      block_out_channels=(128, 256, 512, 512),
      layers_per_block=2,
      latent_channels=4,
      down_block_types=("DownEncoderBlock2D",) * 4,
      up_block_types=("UpDecoderBlock2D",) * 4,
    )
    latent = torch.zeros(1, 4, 64, 64)
    text = torch.zeros(1, 77, 768)
    for name, weights, call in (
      ("network", network, lambda: network(latent, torch.zeros(1), text)),
      ("decoder", decoder.decoder, lambda: decoder.decode(latent)),
    ):
      with flop_counter.FlopCounterMode(display=False) as counted:
        call()
      params = sum(p.numel() for p in weights.parameters())
      print(f"{name}: {params:,} weights, {counted.get_total_flops():,}")


def main() -> None:
  """Prints what is asked for."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", default="digits.py")
  parser.add_argument("--jobs", default="")
  parser.add_argument(
    "--operations", type=float, default=rates.RUN, help="of the smallest run"
  )
  parser.add_argument("--memory", action="store_true")
  parser.add_argument("--count", action="store_true")
  flags = parser.parse_args()
  if flags.count:
    count()
    return
  if flags.memory:
    for name in ("digits.py", "digits_membership.py"):
      memory(name)
    return
  rates.RUN = flags.operations
  table(flags.config, [name for name in flags.jobs.split(",") if name])


if __name__ == "__main__":
  main()

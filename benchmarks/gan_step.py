# SPDX-License-Identifier: Apache-2.0
"""The step of a GAN in JAX against the same networks in PyTorch, on CPU.

  python benchmarks/gan_step.py                      # torch installed here
  python benchmarks/gan_step.py --torch-python=PATH  # or in another one
  python benchmarks/gan_step.py --one-core           # CPU seconds of one core

The networks are the residual ones of WGANs (diffmem.models.residual_gan), with
the hinge loss. One step is two updates of the discriminator and one of the
generator, each on a batch of its own: images, losses, gradients, Adam, and the
average of the generator. The two sides run in turns, each in its own process
and idle while the other one runs; medians over the turns are printed, and
their ratio.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = str(pathlib.Path(__file__).resolve().parent.parent)
NETWORKS = {
  # name: (shape, batch, width)
  "digits": ((8, 8, 1), 64, 32),
  "rgb32": ((32, 32, 3), 32, 32),
}
LATENT, UPDATES, RATE, BETAS, EMA = 32, 2, 4e-4, (0.0, 0.9), 0.998


def jax_side(shape, batch, width):
  """(step function of no arguments, parameters, versions)."""
  import jax
  import numpy as np

  from diffmem import keys, mesh, models
  from diffmem.models import gan
  from diffmem.train import gan_program, gan_step

  both = gan.create(
    "resnet",
    shape=shape,
    latent=LATENT,
    width=width,
    discriminator_width=width,
  )
  parts = gan_program.parts(
    both,
    dict(
      loss="hinge",
      penalties={},
      augment={"name": "none"},
      negatives=None,
      updates=UPDATES,
      discriminator_lr=RATE,
      betas=BETAS,
    ),
    dict(lr=RATE, warmup=0, steps=10**6, decay="constant", ema=EMA),
  )
  run = gan_step.create(parts)
  images = np.random.default_rng(0).integers(
    0, 256, (UPDATES * batch, *shape), np.uint8
  )
  images = mesh.shard({"image": images}, mesh.data_mesh())
  state = jax.jit(lambda key: gan_step.init(parts, key))(keys.root(0))
  count = models.count(
    [state["generator"]["params"], state["ema"]["discriminator"]["params"]]
  )
  box, key = [state, 0], keys.root(1)

  def step():
    box[0], metrics = run(box[0], images, key, box[1])
    box[1] += 1
    return metrics["loss_generator"].block_until_ready()

  return step, count, f"jax {jax.__version__}"


def torch_networks(shape, width):
  """(generator, discriminator) of diffmem.models.residual_gan, in PyTorch."""
  import math

  from torch import nn
  from torch.nn import functional

  h, w, channels = shape
  doublings = int(math.log2(min(h, w) // 4))
  bottom = (h // 2**doublings, w // 2**doublings)

  def double(x):
    return functional.interpolate(x, scale_factor=2, mode="nearest")

  class Up(nn.Module):
    def __init__(self):
      super().__init__()
      self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
      self.conv1 = nn.Conv2d(width, width, 3, padding=1)
      self.conv2 = nn.Conv2d(width, width, 3, padding=1)
      self.skip = nn.Conv2d(width, width, 1)

    def forward(self, x):
      y = self.conv1(double(functional.relu(self.norm1(x))))
      return self.conv2(functional.relu(self.norm2(y))) + double(self.skip(x))

  class Down(nn.Module):
    def __init__(self, inputs, first, down):
      super().__init__()
      self.first, self.down = first, down
      self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
      self.conv2 = nn.Conv2d(width, width, 3, padding=1)
      self.skip = nn.Conv2d(inputs, width, 1) if down else None

    def forward(self, x):
      y = x if self.first else functional.relu(x)
      y = self.conv2(functional.relu(self.conv1(y)))
      if self.down:
        x, y = functional.avg_pool2d(x, 2), functional.avg_pool2d(y, 2)
      return y + (x if self.skip is None else self.skip(x))

  class Generator(nn.Module):
    def __init__(self):
      super().__init__()
      self.first = nn.Linear(LATENT, bottom[0] * bottom[1] * width)
      self.blocks = nn.Sequential(*(Up() for _ in range(doublings)))
      self.norm = nn.BatchNorm2d(width)
      self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, z):
      x = self.blocks(self.first(z).reshape(-1, width, *bottom))
      return self.out(functional.relu(self.norm(x))).tanh()

  class Discriminator(nn.Module):
    def __init__(self):
      super().__init__()
      side, halvings = max(h, w), 0
      while halvings < doublings and (side > 8 or not halvings):
        side, halvings = side // 2, halvings + 1
      self.blocks = nn.Sequential(
        *(
          Down(width if i else channels, i == 0, i < halvings)
          for i in range(halvings + 2)
        )
      )
      self.out = nn.Linear(width, 1)

    def forward(self, x):
      features = functional.relu(self.blocks(x)).mean(dim=(2, 3))
      return self.out(features)[:, 0]

  return Generator(), Discriminator()


def torch_side(shape, batch, width, channels_last):
  """As `jax_side`."""
  import torch

  generator, discriminator = torch_networks(shape, width)
  images = torch.randint(0, 256, (UPDATES * batch, shape[2], *shape[:2]))
  images = images.to(torch.uint8)
  if channels_last:
    last = torch.channels_last
    generator = generator.to(memory_format=last)
    discriminator = discriminator.to(memory_format=last)
    images = images.contiguous(memory_format=last)
  ours, theirs = list(generator.parameters()), list(discriminator.parameters())
  ema = [p.detach().clone() for p in ours]
  of_g = torch.optim.Adam(ours, lr=RATE, betas=BETAS)
  of_d = torch.optim.Adam(theirs, lr=RATE, betas=BETAS)

  def step():
    for update in range(UPDATES):
      real = images[update::UPDATES].float() / 127.5 - 1
      with torch.no_grad():
        fake = generator(torch.randn(batch, LATENT))
      loss = (
        torch.relu(1 - discriminator(real))
        + torch.relu(1 + discriminator(fake))
      ).mean()
      of_d.zero_grad(set_to_none=True)
      loss.backward()
      of_d.step()
    discriminator.requires_grad_(False)
    loss = -discriminator(generator(torch.randn(batch, LATENT))).mean()
    of_g.zero_grad(set_to_none=True)
    loss.backward()
    of_g.step()
    discriminator.requires_grad_(True)
    with torch.no_grad():
      torch._foreach_lerp_(ema, ours, 1 - EMA)
    return loss.item()

  count = sum(p.numel() for p in [*ours, *theirs])
  return step, count, f"torch {torch.__version__}"


def seconds_a_step(step, duration, clock):
  """Mean seconds of a step over about `duration` seconds of steps."""
  start, steps = clock(), 0
  while clock() - start < duration:
    step()
    steps += 1
  return (clock() - start) / steps


def worker(side, network, one_core):
  """Answers each line "seconds" on stdin with the seconds of one step."""
  clock = time.process_time if one_core else time.perf_counter
  if one_core:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  if side == "jax":
    step, count, version = jax_side(*NETWORKS[network])
  else:
    last = side == "torch-channels-last"
    step, count, version = torch_side(*NETWORKS[network], last)
  for _ in range(3):
    step()
  print(json.dumps(dict(count=count, about=version)), flush=True)
  for line in sys.stdin:
    print(seconds_a_step(step, float(line), clock), flush=True)


def start(python, side, network, one_core):
  """The worker of one side, and what it says of itself."""
  path = os.pathsep.join(p for p in (ROOT, os.environ.get("PYTHONPATH")) if p)
  process = subprocess.Popen(
    [python, __file__, f"--worker={side}", network] + ["--one-core"] * one_core,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": path},
  )
  line = process.stdout.readline()
  if not line:
    sys.exit(f"the {side} side did not start under {python}")
  return process, json.loads(line)


def compare(network, torch_python, turns, seconds, one_core):
  """Prints images a second of each side and the ratio."""
  sides = {
    "jax": sys.executable,
    "torch": torch_python,
    "torch-channels-last": torch_python,
  }
  workers = {s: start(p, s, network, one_core) for s, p in sides.items()}
  counts = {about["count"] for _, about in workers.values()}
  assert len(counts) == 1, f"the networks differ in parameters: {counts}"
  times = {side: [] for side in sides}
  for _ in range(turns):
    for side, (process, _) in workers.items():
      process.stdin.write(f"{seconds}\n")
      process.stdin.flush()
      times[side].append(float(process.stdout.readline()))
  batch = NETWORKS[network][1]
  clock = "CPU seconds on one core" if one_core else "wall clock"
  print(f"{network}: {counts.pop():,} parameters, batch {batch}, {clock}")
  for side, (process, about) in workers.items():
    process.stdin.close()
    process.wait()
    median = statistics.median(times[side])
    print(
      f"  {side:20} {1e3 * median:8.2f} ms a step "
      f"({1e3 * min(times[side]):.2f} to {1e3 * max(times[side]):.2f}; "
      f"{about['about']})"
    )
  medians = {side: statistics.median(found) for side, found in times.items()}
  best = min(medians["torch"], medians["torch-channels-last"])
  ratios = sorted(
    min(a, b) / j
    for j, a, b in zip(*(times[side] for side in sides), strict=True)
  )
  print(
    f"  jax / better torch   {best / medians['jax']:8.2f} "
    f"(turn by turn {ratios[0]:.2f} to {ratios[-1]:.2f}; expected 0.7 or more)"
  )


def main():
  """Parses the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("networks", nargs="*", default=list(NETWORKS))
  parser.add_argument("--torch-python", help="an interpreter with torch")
  parser.add_argument("--turns", type=int, default=7)
  parser.add_argument("--seconds", type=float, default=2.0, help="a turn")
  parser.add_argument(
    "--one-core", action="store_true", help="CPU seconds on one core each"
  )
  parser.add_argument("--worker", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.worker:
    worker(args.worker, args.networks[0], args.one_core)
    return
  if not args.torch_python and importlib.util.find_spec("torch") is None:
    sys.exit(
      "torch is not installed here: pip install 'diffmem[bench]', or name "
      "an interpreter that has it with --torch-python=PATH"
    )
  for network in args.networks:
    compare(
      network,
      args.torch_python or sys.executable,
      args.turns,
      args.seconds,
      args.one_core,
    )


if __name__ == "__main__":
  main()

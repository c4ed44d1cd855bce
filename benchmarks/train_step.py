# SPDX-License-Identifier: Apache-2.0
"""The train step in JAX against the same network and step in PyTorch, on CPU.

  python benchmarks/train_step.py                      # torch installed here
  python benchmarks/train_step.py --torch-python=PATH  # or in another one
  python benchmarks/train_step.py --table              # ms a step, JAX alone
                                                       # by width and batch

One step is: noise images at a random t, loss, gradient, Adam, EMA. The two
sides run in turns (JAX, torch, JAX, torch, ...), each in its own process and
idle while the other one runs, so that a machine that others use as well
disturbs both alike; medians over the turns are printed, and their ratio. On
a machine that is never quiet use --one-core: CPU seconds of one core each
(with two threads, a torch that must share its cores is 10 times slower).

What is left (CPU ms on one core, 96 to 32 channels, 3x3, 32 images of 32x32,
jax 0.12 against torch 2.13): the kernel gradient of a convolution, 25 against
13, then its forward pass and input gradient, 14 and 13 against 11 and 11;
group norm with SiLU and its gradient takes 11 against 18.
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
  # name: (shape, batch, knobs of models.create("unet"))
  "digits": (
    (8, 8, 1),
    64,
    dict(name="unet", width=16, multipliers=(1, 2), blocks=1, attention=(),
         middle="dense", groups=8),
  ),
  "rgb32": (
    (32, 32, 3),
    32,
    dict(name="unet", width=32, multipliers=(1, 2, 2), blocks=1,
         attention=(8,), middle="attention", groups=32),
  ),
}  # fmt: skip


def jax_side(shape, batch, knobs):
  """(step function of no arguments, parameters, versions)."""
  import jax
  import jax.numpy as jnp
  import optax

  from diffmem import models

  model = models.create(shape=shape, **knobs)
  optimiser = optax.adam(2e-4)
  alpha_bar = jnp.cumprod(1 - jnp.linspace(1e-4, 0.02, 1000))
  images = jax.random.uniform(
    jax.random.key(1), (batch, *shape), minval=-1, maxval=1
  )

  def loss_fn(params, images, key):
    noise_key, t_key = jax.random.split(key)
    t = jax.random.randint(t_key, (images.shape[0],), 0, alpha_bar.shape[0])
    noise = jax.random.normal(noise_key, images.shape)
    a = alpha_bar[t][:, None, None, None]
    noisy = jnp.sqrt(a) * images + jnp.sqrt(1 - a) * noise
    return jnp.mean((model.apply(params, noisy, t, None) - noise) ** 2)

  def update(state, images):
    params, ema, moments, step = state
    key = jax.random.fold_in(jax.random.key(0), step)
    loss, grads = jax.value_and_grad(loss_fn)(params, images, key)
    updates, moments = optimiser.update(grads, moments, params)
    params = optax.apply_updates(params, updates)
    ema = jax.tree.map(lambda e, p: 0.999 * e + 0.001 * p, ema, params)
    return (params, ema, moments, step + 1), loss

  update = jax.jit(update, donate_argnums=0)
  params = jax.jit(model.init)(jax.random.key(0))
  ema = jax.tree.map(jnp.copy, params)
  state = params, ema, optimiser.init(params), jnp.int32(0)
  count = models.count(params)
  box = [state]

  def step():
    box[0], loss = update(box[0], images)
    return loss.block_until_ready()

  return step, count, f"jax {jax.__version__}"


def torch_unet(shape, knobs):
  """The network of diffmem.models.unet, in PyTorch."""
  import math

  import torch
  from torch import nn
  from torch.nn import functional

  width, groups = knobs["width"], knobs["groups"]

  def norm(c):
    return nn.GroupNorm(
      max(g for g in range(1, groups + 1) if c % g == 0), c, eps=1e-6
    )

  class Block(nn.Module):
    def __init__(self, i, o):
      super().__init__()
      self.norm1, self.norm2 = norm(i), norm(o)
      self.conv1 = nn.Conv2d(i, o, 3, padding=1)
      self.conv2 = nn.Conv2d(o, o, 3, padding=1)
      self.embed = nn.Linear(4 * width, o)
      self.skip = nn.Identity() if i == o else nn.Conv2d(i, o, 1)

    def forward(self, x, e):
      y = self.conv1(functional.silu(self.norm1(x)))
      y = y + self.embed(functional.silu(e))[:, :, None, None]
      return self.skip(x) + self.conv2(functional.silu(self.norm2(y)))

  class Attention(nn.Module):
    def __init__(self, c):
      super().__init__()
      self.norm = norm(c)
      self.qkv, self.out = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x, e):
      q, k, v = self.qkv(self.norm(x)).flatten(2).mT.chunk(3, dim=-1)
      y = functional.scaled_dot_product_attention(q, k, v)
      return x + self.out(y.mT.reshape(x.shape))

  class Dense(nn.Module):
    def __init__(self, features, c):
      super().__init__()
      self.norm = norm(c)
      self.first = nn.Linear(features, features)
      self.second = nn.Linear(features, features)

    def forward(self, x, e):
      y = self.second(functional.silu(self.first(self.norm(x).flatten(1))))
      return x + y.reshape(x.shape)

  class Resize(nn.Module):
    def __init__(self, c, stride):
      super().__init__()
      self.conv, self.stride = nn.Conv2d(c, c, 3, stride, 1), stride

    def forward(self, x, e):
      if self.stride == 1:
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
      return self.conv(x)

  class UNet(nn.Module):
    def __init__(self):
      super().__init__()
      self.first = nn.Linear(width, 4 * width)
      self.second = nn.Linear(4 * width, 4 * width)
      self.stem = nn.Conv2d(shape[2], width, 3, padding=1)
      self.down, self.up = nn.ModuleList(), nn.ModuleList()
      c, skips = width, [width]
      levels = list(enumerate(knobs["multipliers"]))

      def stage(i, o, level):
        attend = shape[0] >> level in knobs["attention"]
        extra = [Attention(o)] if attend else []
        return nn.ModuleList([Block(i, o), *extra])

      for level, m in levels:
        for _ in range(knobs["blocks"]):
          self.down.append(stage(c, width * m, level))
          c = width * m
          skips.append(c)
        if level + 1 < len(levels):
          self.down.append(nn.ModuleList([Resize(c, 2)]))
          skips.append(c)
      pixels = (shape[0] >> level) * (shape[1] >> level)
      dense = knobs["middle"] == "dense"
      between = Dense(pixels * c, c) if dense else Attention(c)
      self.middle = nn.ModuleList([Block(c, c), between, Block(c, c)])
      for level, m in reversed(levels):
        for _ in range(knobs["blocks"] + 1):
          self.up.append(stage(c + skips.pop(), width * m, level))
          c = width * m
        if level:
          self.up[-1].append(Resize(c, 1))
      self.norm = norm(c)
      self.out = nn.Conv2d(c, shape[2], 3, padding=1)

    def forward(self, x, t):
      half = width // 2
      waves = torch.exp(-math.log(1e4) * torch.arange(half) / (half - 1))
      angles = t[:, None] * waves[None]
      e = torch.cat([angles.sin(), angles.cos()], 1)
      e = self.second(functional.silu(self.first(e)))
      x = self.stem(x)
      skips = [x]
      for modules in self.down:
        for module in modules:
          x = module(x, e)
        skips.append(x)
      for module in self.middle:
        x = module(x, e)
      for modules in self.up:
        x = torch.cat([x, skips.pop()], 1)
        for module in modules:
          x = module(x, e)
      return self.out(functional.silu(self.norm(x)))

  return UNet()


def torch_side(shape, batch, knobs, channels_last):
  """(step function of no arguments, parameters, versions)."""
  import torch

  network = torch_unet(shape, knobs)
  images = torch.rand(batch, shape[2], shape[0], shape[1]) * 2 - 1
  if channels_last:
    network = network.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
  params = list(network.parameters())
  ema = [p.detach().clone() for p in params]
  optimiser = torch.optim.Adam(params, lr=2e-4)
  alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)

  def step():
    t = torch.randint(0, 1000, (batch,))
    noise = torch.randn_like(images)
    a = alpha_bar[t][:, None, None, None]
    noisy = a.sqrt() * images + (1 - a).sqrt() * noise
    loss = ((network(noisy, t) - noise) ** 2).mean()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    with torch.no_grad():
      torch._foreach_lerp_(ema, params, 0.001)
    return loss.item()

  count = sum(p.numel() for p in params)
  return step, count, f"torch {torch.__version__}"


def seconds_a_step(step, duration, clock=time.perf_counter):
  """Mean seconds of a step over about `duration` seconds of steps."""
  start, steps = clock(), 0
  while clock() - start < duration:
    step()
    steps += 1
  return (clock() - start) / steps


def worker(side, network, batch, one_core):
  """Answers each line "seconds" on stdin with the seconds of one step."""
  shape, _, knobs = NETWORKS[network]
  clock = time.process_time if one_core else time.perf_counter
  if one_core:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  if side == "jax":
    step, count, version = jax_side(shape, batch, knobs)
    import jax

    threads = f"{len(os.sched_getaffinity(0))} cores, {jax.default_backend()}"
  else:
    import torch

    last = side == "torch-channels-last"
    step, count, version = torch_side(shape, batch, knobs, last)
    threads = f"{torch.get_num_threads()} threads"
  for _ in range(3):
    step()
  python = ".".join(map(str, sys.version_info[:3]))
  about = f"{version}, Python {python}, {threads}"
  print(json.dumps(dict(count=count, about=about)), flush=True)
  for line in sys.stdin:
    print(seconds_a_step(step, float(line), clock), flush=True)


def start(python, side, network, batch, one_core):
  """The worker of one side, and what it says of itself."""
  path = os.pathsep.join(p for p in (ROOT, os.environ.get("PYTHONPATH")) if p)
  process = subprocess.Popen(
    [python, __file__, f"--worker={side}", network, f"--batch={batch}"]
    + ["--one-core"] * one_core,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": path},
  )
  line = process.stdout.readline()
  if not line:
    sys.exit(f"the {side} side did not start under {python}")
  return process, json.loads(line)


def ask(process, seconds):
  """Seconds of one step in this worker's turn."""
  process.stdin.write(f"{seconds}\n")
  process.stdin.flush()
  return float(process.stdout.readline())


def compare(network, batch, torch_python, turns, seconds, one_core):
  """Prints images a second of each side and the ratio; returns the ratio."""
  sides = {
    "jax": sys.executable,
    "torch": torch_python,
    "torch-channels-last": torch_python,
  }
  workers = {s: start(p, s, network, batch, one_core) for s, p in sides.items()}
  counts = {about["count"] for _, about in workers.values()}
  assert len(counts) == 1, f"the networks differ in parameters: {counts}"
  times = {side: [] for side in sides}
  for _ in range(turns):
    for side, (process, _) in workers.items():
      times[side].append(ask(process, seconds))
  clock = "CPU seconds on one core" if one_core else "wall clock"
  print(f"{network}: {counts.pop():,} parameters, batch {batch}, {clock}")
  medians = {}
  for side, (process, about) in workers.items():
    process.stdin.close()
    process.wait()
    medians[side] = statistics.median(times[side])
    print(
      f"  {side:20} {batch / medians[side]:8.1f} images/s "
      f"{1e3 * medians[side]:8.2f} ms a step "
      f"({1e3 * min(times[side]):.2f} to {1e3 * max(times[side]):.2f}; "
      f"{about['about']})"
    )
  best = min(medians["torch"], medians["torch-channels-last"])
  ratios = sorted(
    min(a, b) / j
    for j, a, b in zip(*(times[side] for side in sides), strict=True)
  )
  print(
    f"  jax / better torch   {best / medians['jax']:8.2f} "
    f"(turn by turn {ratios[0]:.2f} to {ratios[-1]:.2f})"
  )
  return best / medians["jax"]


def table(seconds):
  """Prints ms a step of the digits networks by width and batch, JAX alone."""
  sys.path.insert(0, ROOT)
  print("width  batch  ms a step  images/s")
  shape, _, knobs = NETWORKS["digits"]
  for width in (16, 32):
    for batch in (32, 64, 128):
      step, _, _ = jax_side(shape, batch, knobs | {"width": width})
      for _ in range(3):
        step()
      s = seconds_a_step(step, seconds)
      print(f"{width:5} {batch:6} {1e3 * s:10.2f} {batch / s:9.0f}")


def main():
  """Parses the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("networks", nargs="*", default=list(NETWORKS))
  parser.add_argument("--torch-python", help="an interpreter with torch")
  parser.add_argument("--batch", type=int, help="instead of the network's")
  parser.add_argument("--turns", type=int, default=7)
  parser.add_argument("--seconds", type=float, default=2.0, help="a turn")
  parser.add_argument(
    "--one-core", action="store_true", help="CPU seconds on one core each"
  )
  parser.add_argument("--table", action="store_true")
  parser.add_argument("--worker", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.worker:
    worker(args.worker, args.networks[0], args.batch, args.one_core)
    return
  if args.table:
    table(args.seconds)
    return
  if not args.torch_python and importlib.util.find_spec("torch") is None:
    sys.exit(
      "torch is not installed here: pip install 'diffmem[bench]', or name "
      "an interpreter that has it with --torch-python=PATH"
    )
  for network in args.networks:
    batch = args.batch or NETWORKS[network][1]
    python = args.torch_python or sys.executable
    compare(network, batch, python, args.turns, args.seconds, args.one_core)


if __name__ == "__main__":
  main()

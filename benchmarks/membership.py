# SPDX-License-Identifier: Apache-2.0
"""SecMI and PIA here against the same attacks in PyTorch, on CPU.

  python benchmarks/membership.py                      # torch installed here
  python benchmarks/membership.py --torch-python=PATH  # or in another one
  python benchmarks/membership.py --networks=cifar10   # 35.7 million weights

Both sides have the same weights: a network of pytorch-ddpm's layout is drawn
in PyTorch, written as npz and converted by `diffmem.models.convert`; scores
are compared before anything is measured. Ours is `diffmem.membership.score`,
uint8 images in and scores out; theirs is the attack's formula in PyTorch under
inference_mode, with the network in its default and in its channels-last
layout, whichever is faster.

The sides run in turns, each in its own process and idle while another runs,
and so do the measurements of one side; medians of the turns are printed, with
the smallest and the largest. `share` is the part of the network's own forward
rate, measured in the same turns on the same batch, that an attack keeps:
(network calls an image) * (images/s) / (forward images/s). On a machine that
is never quiet use --one-core: CPU seconds of one core each (threads of a torch
that must share its cores wait for each other).
"""

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = str(pathlib.Path(__file__).resolve().parent.parent)
NETWORKS = {
  # name: (side of images, batch, width, multipliers, blocks, attention levels)
  "tiny": (8, 128, 32, (1, 2), 1, (1,)),
  "rgb32": (32, 16, 32, (1, 2, 2), 1, (2,)),
  "cifar10": (32, 16, 128, (1, 2, 2, 2), 2, (1,)),
}
T, INTERVAL = 100, 10
CALLS = {"forward": 1, "secmi": T // INTERVAL + 2, "pia": 2, "loss": 16}
BLOCKS = 4  # of images for the attacks, each of one batch
SIDES = ("jax", "torch", "torch-channels-last")


def write_weights(network, file):
  """Random weights in the layout of pytorch-ddpm, as npz."""
  import numpy as np

  from tests import torch_networks

  _, _, width, multipliers, blocks, attention = NETWORKS[network]
  made = torch_networks.UNet(width, multipliers, blocks, attention)
  state = torch_networks.randomised(made).state_dict()
  np.savez(file, **{name: value.numpy() for name, value in state.items()})


def read_images(network):
  """The same uint8 images for both sides."""
  import numpy as np

  side, batch, *_ = NETWORKS[network]
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (BLOCKS * batch, side, side, 3), np.uint8)


def jax_side(network, file, last):
  """({name: function of no arguments}, versions)."""
  del last
  import jax
  import jax.numpy as jnp
  import numpy as np

  from diffmem import membership, models
  from diffmem.denoiser import Denoiser
  from diffmem.diffusion import schedules
  from diffmem.models import convert, weights

  images = read_images(network)
  found = convert.pytorch_ddpm(weights.read(file), height=images.shape[1])
  model = models.create(shape=images.shape[1:], **found.knobs)
  params = jax.device_put(found.params)
  denoiser = Denoiser(
    schedule=schedules.linear(steps=found.steps),
    shape=images.shape[1:],
    params=params,
    apply=model.apply,
  )
  apply = jax.jit(lambda params, x, t: model.apply(params, x, t, None))
  batch = len(images) // BLOCKS
  x = jnp.asarray(images[:batch] / np.float32(127.5) - 1)
  t = jnp.full(len(x), T, jnp.int32)

  def attack(name, **options):
    return lambda: membership.score(
      name, denoiser, images, t=T, batch=batch, progress=False, **options
    )

  return {
    "forward": lambda: apply(params, x, t).block_until_ready(),
    "secmi": attack("secmi", interval=INTERVAL),
    "pia": attack("pia"),
    "loss": attack("loss", draws=CALLS["loss"]),
  }, f"jax {jax.__version__}, {len(os.sched_getaffinity(0))} cores"


def torch_side(network, file, last):
  """({name: function of no arguments}, versions)."""
  import numpy as np
  import torch

  from tests import torch_networks

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  _, _, width, multipliers, blocks, attention = NETWORKS[network]
  net = torch_networks.UNet(width, multipliers, blocks, attention).eval()
  with np.load(file) as arrays:
    state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
  net.load_state_dict(state)
  layout = torch.channels_last if last else torch.contiguous_format
  net = net.to(memory_format=layout)
  images = read_images(network)
  alpha_bar = torch.cumprod(
    1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0
  ).float()

  batch = len(images) // BLOCKS

  def x0(i):
    x = torch.from_numpy(images[i * batch : (i + 1) * batch])
    x = x.permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=layout)

  def eps(x, t):
    return net(x, torch.full((len(x),), t))

  def hop(x, noise, t, u):
    clean = (x - (1 - alpha_bar[t]).sqrt() * noise) / alpha_bar[t].sqrt()
    return alpha_bar[u].sqrt() * clean + (1 - alpha_bar[u]).sqrt() * noise

  def secmi(x):
    for t in range(0, T, INTERVAL):
      x = hop(x, eps(x, t), t, t + INTERVAL)
    up = hop(x, eps(x, T), T, T + INTERVAL)
    back = hop(up, eps(up, T + INTERVAL), T + INTERVAL, T)
    return -((back - x) ** 2).sum((1, 2, 3)).numpy()

  def pia(x):
    noise = eps(x, 0)
    noisy = alpha_bar[T].sqrt() * x + (1 - alpha_bar[T]).sqrt() * noise
    return -((noise - eps(noisy, T)).abs() ** 4).sum((1, 2, 3)).numpy()

  def attack(function):
    @torch.inference_mode()
    def scores():
      return np.concatenate([function(x0(i)) for i in range(BLOCKS)])

    return scores

  x = x0(0)

  @torch.inference_mode()
  def forward():
    return eps(x, T)

  threads = f"{torch.get_num_threads()} threads"
  return (
    {"forward": forward, "secmi": attack(secmi), "pia": attack(pia)},
    f"torch {torch.__version__}, {threads}",
  )


def seconds_a_call(call, duration, clock=time.perf_counter):
  """Mean seconds of a call over about `duration` seconds of calls."""
  start, calls = clock(), 0
  while calls == 0 or clock() - start < duration:
    call()
    calls += 1
  return (clock() - start) / calls


def worker(side, network, file, one_core):
  """Answers each line "name seconds" on stdin with the seconds of a call."""
  sys.path.insert(0, ROOT)
  clock = time.process_time if one_core else time.perf_counter
  if one_core:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  if not os.path.exists(file):
    write_weights(network, file)
  make = jax_side if side == "jax" else torch_side
  calls, about = make(network, file, side.endswith("last"))
  scores = {name: calls[name]().tolist() for name in ("secmi", "pia")}
  for call in calls.values():
    call()
  print(json.dumps(dict(about=about, names=list(calls), scores=scores)))
  sys.stdout.flush()
  for line in sys.stdin:
    name, seconds = line.split()
    print(seconds_a_call(calls[name], float(seconds), clock), flush=True)


def start(python, side, network, file, one_core):
  """The worker of one side, and what it says of itself."""
  process = subprocess.Popen(
    [python, __file__, "--worker", side, network, f"--file={file}"]
    + ["--one-core"] * one_core,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": ROOT},
  )
  line = process.stdout.readline()
  if not line:
    sys.exit(f"the {side} side did not start under {python}")
  return process, json.loads(line)


def ask(process, name, seconds):
  """Seconds of one call in this worker's turn."""
  process.stdin.write(f"{name} {seconds}\n")
  process.stdin.flush()
  return float(process.stdout.readline())


def check(workers):
  """Both sides must give the same scores before they are timed."""
  ours = workers["jax"][1]["scores"]
  for side, (_, about) in workers.items():
    for name, values in about["scores"].items():
      error = max(
        abs(a / b - 1) for a, b in zip(values, ours[name], strict=True)
      )
      assert error < 0.01, f"{side} {name} differs by {error:.2%}"


def compare(network, torch_python, turns, seconds, one_core):
  """Prints rates, ratios and shares of one network."""
  batch = NETWORKS[network][1]
  with tempfile.TemporaryDirectory() as folder:
    file = os.path.join(folder, "weights.npz")
    workers = {}
    for side in ("torch", "torch-channels-last", "jax"):
      python = sys.executable if side == "jax" else torch_python
      workers[side] = start(python, side, network, file, one_core)
  check(workers)
  times = {(s, n): [] for s in SIDES for n in workers[s][1]["names"]}
  for _ in range(turns):
    for (side, name), found in times.items():
      found.append(ask(workers[side][0], name, seconds))
  for process, _ in workers.values():
    process.stdin.close()
    process.wait()
  clock = "CPU seconds on one core" if one_core else "wall clock"
  about = "; ".join(workers[side][1]["about"] for side in ("jax", "torch"))
  print(f"{network}: batch {batch}, {clock}; {about}")
  report(batch, times)


def report(batch, times):
  """A line for each side of each measurement, then the ratios."""
  for (_, name), found in times.items():
    if name != "forward":
      found[:] = [seconds / BLOCKS for seconds in found]
  medians = {key: statistics.median(found) for key, found in times.items()}
  print(f"  {'':8} {'side':20} images/s  ms a batch, median (range)   share")
  for (side, name), found in sorted(times.items(), key=lambda i: i[0][::-1]):
    share = CALLS[name] * medians[side, "forward"] / medians[side, name]
    print(
      f"  {name:8} {side:20} {batch / medians[side, name]:8.1f}  "
      f"{1e3 * medians[side, name]:9.2f} ({1e3 * min(found):.2f} to "
      f"{1e3 * max(found):.2f})  {share:5.2f}"
    )
  for name in ("forward", "secmi", "pia"):
    turns = [
      min(times[side, name][i] for side in SIDES[1:]) / ours
      for i, ours in enumerate(times["jax", name])
    ]
    best = min(medians[side, name] for side in SIDES[1:])
    print(
      f"  {name:8} jax / better torch: {best / medians['jax', name]:.2f} "
      f"(turn by turn {min(turns):.2f} to {max(turns):.2f})"
    )


def main():
  """Parses the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--networks", default="tiny,rgb32")
  parser.add_argument("--torch-python", help="an interpreter with torch")
  parser.add_argument("--turns", type=int, default=7)
  parser.add_argument("--seconds", type=float, default=1.0, help="a turn")
  parser.add_argument(
    "--one-core", action="store_true", help="CPU seconds on one core each"
  )
  parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
  parser.add_argument("--file", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.worker:
    worker(*args.worker, args.file, args.one_core)
    return
  if not args.torch_python and importlib.util.find_spec("torch") is None:
    sys.exit(
      "torch is not installed here: pip install 'diffmem[bench]', or name "
      "an interpreter that has it with --torch-python=PATH"
    )
  for network in args.networks.split(","):
    python = args.torch_python or sys.executable
    compare(network, python, args.turns, args.seconds, args.one_core)


if __name__ == "__main__":
  main()

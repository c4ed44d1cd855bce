# SPDX-License-Identifier: Apache-2.0
"""A step of DP-SGD against the plain step, on CPU: time, and memory by batch.

  python benchmarks/private_step.py [--rounds=5] [--network=unet]

The network of configs/defence_small.py (or that of digits.py, whose gradients
one by one XLA compiles for minutes on a CPU) on images of 8x8 pixels. CPU
seconds of one step, the two interleaved, the median of their ratio over rounds;
the peak memory that XLA plans for the program that a micro-batch goes through,
which is the same for any batch, against one micro-batch that holds the whole.
"""

import argparse
import functools
import statistics
import time

import jax
import numpy as np

from diffmem import keys, models
from diffmem.data import PoissonBatches
from diffmem.diffusion import schedules
from diffmem.models import presets
from diffmem.train import private_step, state, step

SHAPE = (8, 8, 1)
NETWORKS = {
  "mlp": dict(name="mlp", width=128, blocks=3),
  "unet": presets.digits(),
}
ROWS = 4096
STEPS = 5  # timed together


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--network", choices=sorted(NETWORKS), default="mlp")
  given = parser.parse_args()
  rounds, knobs = given.rounds, NETWORKS[given.network]
  print("| batch | micro-batch | plain, CPU ms | private, CPU ms | ratio |")
  print("|---|---|---|---|---|")
  for batch, microbatch in ((64, 16), (64, 64), (256, 16), (256, 64)):
    times = _times(knobs, batch, microbatch, rounds)
    ratio = statistics.median(b / a for a, b in times)
    plain, private = (
      1e3 * statistics.median(x) for x in zip(*times, strict=True)
    )
    print(
      f"| {batch} | {microbatch} | {plain:.1f} | {private:.1f} | {ratio:.2f} |",
      flush=True,
    )
  print(
    "\n| rows held at the same time | MiB that the program needs |\n|---|---|"
  )
  for size in (16, 64, 256, 1024):
    print(f"| {size} | {_memory(knobs, size):.1f} |", flush=True)


def _network(knobs: dict):
  model = models.create(shape=SHAPE, **knobs)
  rate = state.learning_rate(lr=1e-3, warmup=1, steps=100, decay="constant")
  return model, state.optimizer(rate, clip=1.0), rate, schedules.linear(1000)


def _fresh(model, tx):
  return jax.jit(functools.partial(state.init, model.init, tx))(keys.root(0))


def _images() -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE), np.uint8)


def _times(knobs: dict, batch: int, microbatch: int, rounds: int):
  """[(plain, private)]: CPU seconds of one step in each round."""
  model, tx, rate, schedule = _network(knobs)
  options = dict(prediction="eps", loss="mse")
  images = _images()
  plain = step.create(model, schedule, tx, rate, ema=0.999, **options)
  each = step.denoising(model, schedule, **options)
  private = private_step.create(
    model, each, tx, rate, ema=0.999, batch=batch, clip=1.0
  )
  poisson = PoissonBatches(
    images, None, np.arange(ROWS), batch=batch, microbatch=microbatch,
    seed=0, flip=False,
  )  # fmt: skip
  parts = [poisson.at(i) for i in range(STEPS)]
  for batch_parts in parts:
    for part in batch_parts:
      del part["row"]
  whole = {"image": images[:batch]}
  key = keys.root(1)
  runs = (
    lambda s, i: plain(s, whole, key)[0],
    lambda s, i: private(s, parts[i], key, 1.0)[0],
  )
  states = [jax.block_until_ready(run(_fresh(model, tx), 0)) for run in runs]
  times = []
  for _ in range(rounds):
    row = []
    for n, run in enumerate(runs):
      start = time.process_time()
      for i in range(STEPS):
        states[n] = run(states[n], i)
      jax.block_until_ready(states[n])
      row.append((time.process_time() - start) / STEPS)
    times.append(tuple(row))
  return times


def _memory(knobs: dict, size: int) -> float:
  """MiB of temporary values in the sum over one micro-batch."""
  model, _, _, schedule = _network(knobs)
  each = step.denoising(model, schedule, prediction="eps", loss="mse")
  params = jax.eval_shape(model.init, keys.root(0))
  total = jax.eval_shape(lambda: private_step.nothing(params))
  part = {
    "image": jax.ShapeDtypeStruct((size, *SHAPE), np.uint8),
    "slot": jax.ShapeDtypeStruct((size,), np.int32),
  }
  real = jax.ShapeDtypeStruct((size,), bool)
  add = jax.jit(private_step.clipped_sum(each, 1.0))
  compiled = add.lower(total, params, part, real, keys.root(0)).compile()
  return compiled.memory_analysis().temp_size_in_bytes / 2**20


if __name__ == "__main__":
  main()

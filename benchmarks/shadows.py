# SPDX-License-Identifier: Apache-2.0
"""Many small trainings: in turn, or side by side in one program?

  python benchmarks/shadows.py [--models=4] [--steps=100] [--turns=7]
  python benchmarks/shadows.py --compiling    # what a shared program saves

In turn is what the train stage does with shadow models: one compiled step,
called for one model after another. Side by side is the same step under vmap
over models. The two alternate, so that a machine that others use as well
disturbs both alike; medians are printed, wall and CPU ms for one step of one
model, and the median of the turns' ratios. --compiling trains for 20 steps by
a program of each model's own and by a shared one, without JAX's compilation
cache on disk.
"""

import argparse
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.train import run, shadows

SIZES = ((64, 64), (128, 64), (256, 64), (256, 128))  # width, batch


def sections(width: int, batch: int, steps: int) -> dict:
  """The config sections of the network and its training."""
  return {
    "models": dict(name="mlp", num_classes=None, dtype="float32", width=width,
                   blocks=4, dropout=0.0, time_scale=1.0),
    "diffusion": dict(schedule=dict(name="linear", steps=1000),
                      prediction="eps", loss="mse"),
    "train": dict(batch=batch, steps=steps, lr=2e-3, warmup=5, decay="cosine",
                  clip=1.0, ema=0.999, flip=False, label_dropout=0.0,
                  log_every=steps, checkpoint_every=steps, preview_every=steps,
                  preview=0, tensorboard=False),
  }  # fmt: skip


def sides(width: int, batch: int, models: int):
  """(one call of each model, one call of all side by side)."""
  program = run.program((8, 8, 1), **sections(width, batch, 1000))
  step = program.step.__wrapped__
  keys = jax.random.split(jax.random.key(0), models)
  draw = np.random.default_rng(0).integers
  images = draw(0, 256, (models, batch, 8, 8, 1), np.uint8)
  states = [program.init(key) for key in keys]
  whole = jax.tree.map(lambda *x: jnp.stack(x), *states)
  single = jax.jit(step, donate_argnums=0)
  many = jax.jit(jax.vmap(step), donate_argnums=0)

  def in_turn(steps: int) -> None:
    for i in range(models):
      for _ in range(steps):
        states[i], _ = single(states[i], {"image": images[i]}, keys[i])
    jax.block_until_ready(states)

  def together(steps: int) -> None:
    nonlocal whole
    for _ in range(steps):
      whole, _ = many(whole, {"image": images}, keys)
    jax.block_until_ready(whole)

  return in_turn, together


def side_by_side(models: int, steps: int, turns: int) -> None:
  """Prints a line for each size."""
  print(f"{models} models, ms for one step of one model (wall, CPU)")
  for width, batch in SIZES:
    functions = sides(width, batch, models)
    for function in functions:
      function(2)
    taken = []
    for _ in range(turns):
      row = []
      for function in functions:
        start = time.perf_counter(), time.process_time()
        function(steps)
        row.append((time.perf_counter() - start[0]) / steps / models * 1e3)
        row.append((time.process_time() - start[1]) / steps / models * 1e3)
      taken.append(row)
    one, one_cpu, all_, all_cpu = (
      statistics.median(row[i] for row in taken) for i in range(4)
    )
    ratio = statistics.median(row[0] / row[2] for row in taken)
    cpu = statistics.median(row[1] / row[3] for row in taken)
    print(
      f"  width {width:3} batch {batch:3}: in turn {one:.2f}, {one_cpu:.2f};"
      f" side by side {all_:.2f}, {all_cpu:.2f}; gain {ratio:.2f}, {cpu:.2f}"
    )


def compiling(models: int) -> None:
  """Prints the seconds of short trainings with and without sharing."""
  jax.config.update("jax_enable_compilation_cache", False)
  split = dict(name="random", members=0, held_out=1198, calibration=0,
               shadows=models, shadow=None)  # fmt: skip
  data = dict(source="digits", data_dir=None, crop="none", resize=None,
              filter="lanczos", split=split)  # fmt: skip
  config = {"seed": 0, "data": data, **sections(256, 128, 20)}
  for shared in (False, True, False, True):
    with tempfile.TemporaryDirectory() as root:
      start = time.perf_counter()
      if shared:
        shadows.run(root, **config, progress=False)
      else:
        for i in range(models):
          shadows.run(root, **config, which=(i,), progress=False)
      seconds = (time.perf_counter() - start) / models
    name = "one shared" if shared else "its own"
    print(f"{seconds:.2f} s a model of 20 steps, by {name} program")


def main() -> None:
  """Reads the flags and runs one of the two."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--models", type=int, default=4)
  parser.add_argument("--steps", type=int, default=100)
  parser.add_argument("--turns", type=int, default=7)
  parser.add_argument("--compiling", action="store_true")
  given = parser.parse_args()
  if given.compiling:
    compiling(given.models)
  else:
    side_by_side(given.models, given.steps, given.turns)


if __name__ == "__main__":
  main()

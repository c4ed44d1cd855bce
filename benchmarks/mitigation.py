# SPDX-License-Identifier: Apache-2.0
"""What anti-memorization guidance adds to a chain.

  python benchmarks/mitigation.py [--steps=10] [--batch=64] [--turns=5]

The plain chain and the guided ones sample the same ids in turns, so that a
machine that others use as well disturbs all alike; printed are the plain
chain's median time and the median of the turns' ratios to it. Guidance acts
at no step of a random network, and costs the same as if it did.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from diffmem import keys, models
from diffmem.denoiser import trained
from diffmem.sample import antimemorization, chain

DIFFUSION = dict(
  schedule=dict(name="linear", steps=1000), prediction="eps", loss="mse"
)
CASES = (
  # image, width, training images
  ((8, 8, 1), 16, 599),
  ((32, 32, 3), 32, 5000),
)
OPTIONS = dict(
  similarity=10.0,
  despecify=0.0,
  deduplicate=0.0,
  early=1.95,
  late=1.5,
  decay=6.25,
  alpha=0.5,
  neighbours=50,
)


def network(shape, width):
  """A small U-Net with random weights."""
  knobs = dict(
    name="unet", num_classes=None, dtype="float32", width=width,
    multipliers=(1, 2), blocks=1, attention=(), heads=1, middle="dense",
    dropout=0.0, scale_shift=False, groups=8, time_scale=1.0,
    conventions="ho",
  )  # fmt: skip
  model = models.create(shape=shape, learned_variance=False, **knobs)
  return trained.build(shape, knobs, DIFFUSION, model.init(keys.root(0)))


def measure(shape, width, count, *, steps, batch, turns):
  """Prints one case."""
  plain = network(shape, width)
  references = np.random.default_rng(0).uniform(-1, 1, (count, *shape))
  references = references.astype(np.float32)
  denoisers = {"plain": plain} | {
    through: antimemorization.guided(
      plain, references, through=through, **OPTIONS
    )
    for through in antimemorization.THROUGH
  }
  ids, runs = np.arange(batch, dtype=np.int32), {}
  for name, one in denoisers.items():
    options = dict(stepper="ddim", steps=steps, eta=0.0, guidance=1.0)
    runs[name] = jax.jit(chain.chain(one, clip=True, **options))
    jax.block_until_ready(runs[name](one.params, ids, keys.root(0)))
  spent = {name: [] for name in runs}
  for _ in range(turns):
    for name, run in runs.items():
      start = time.perf_counter()
      jax.block_until_ready(run(denoisers[name].params, ids, keys.root(0)))
      spent[name].append(time.perf_counter() - start)
  median = statistics.median(spent["plain"])
  print(
    f"{'x'.join(map(str, shape))}, {count} training images: plain "
    f"{1e3 * median / steps:.1f} ms a step"
  )
  for through in antimemorization.THROUGH:
    ratios = [
      a / b for a, b in zip(spent[through], spent["plain"], strict=True)
    ]
    print(f"  through {through}: {statistics.median(ratios):.2f} times plain")


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=10)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--turns", type=int, default=5)
  given = parser.parse_args()
  for shape, width, count in CASES:
    measure(shape, width, count, **vars(given))


if __name__ == "__main__":
  main()

# SPDX-License-Identifier: Apache-2.0
"""What the sampler adds to the bare cost of its denoiser calls.

  python benchmarks/sampler.py [--steps=50] [--batch=512] [--turns=9]

Bare is a jitted scan of as many network calls on the same batch and nothing
else: x <- network(x, t). The two run in turns, so that a machine that others
use as well disturbs both alike. Printed are the median time, the median of
the turns' ratios to bare, and the ratio of the fastest turns, which a busy
machine disturbs least. The bar is 1.10.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import keys, models
from diffmem.denoiser import Denoiser
from diffmem.diffusion import schedules
from diffmem.sample import chain as chains

NETWORKS = {
  # name: (shape, batch divisor, knobs of models.create)
  "mlp 8x8": ((8, 8, 1), 1, dict(name="mlp", width=256, blocks=4)),
  "unet 8x8": (
    (8, 8, 1),
    1,
    dict(
      name="unet", width=16, multipliers=(1, 2), blocks=1, attention=(),
      middle="dense", groups=8,
    ),
  ),
  "unet 32x32": (
    (32, 32, 3),
    32,
    dict(
      name="unet", width=32, multipliers=(1, 2, 2), blocks=1, attention=(8,),
      middle="attention", groups=32,
    ),
  ),
}  # fmt: skip
STEPPERS = (("ddim", 0.0), ("ddim", 1.0), ("ddpm_fixed_large", 0.0))


def network(shape, knobs) -> Denoiser:
  """A network with random weights, none of them zero."""
  model = models.create(shape=shape, **knobs)
  params = model.init(keys.root(0))
  leaves, tree = jax.tree.flatten(params)
  noise = jax.random.split(keys.root(1), len(leaves))
  leaves = [
    leaf + 0.02 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(leaves, noise, strict=True)
  ]
  return Denoiser(
    schedule=schedules.linear(1000),
    shape=shape,
    params=jax.tree.unflatten(tree, leaves),
    apply=model.apply,
  )


def bare(denoiser, steps):
  """(params, ids, key) -> the result of the network calls alone."""
  times = schedules.respace(denoiser.schedule.steps, steps)[::-1]

  def run(params, ids, key):
    del key

    def body(x, t):
      t = jnp.full(len(x), t, jnp.int32)
      return denoiser.apply(params, x, t, None), None

    x = jnp.full((len(ids), *denoiser.shape), 0.5)
    return jax.lax.scan(body, x, jnp.asarray(times, jnp.int32))[0]

  return run


def seconds(fn, *args) -> float:
  """Wall time of one call."""
  start = time.perf_counter()
  jax.block_until_ready(fn(*args))
  return time.perf_counter() - start


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=50)
  parser.add_argument("--batch", type=int, default=512)
  parser.add_argument("--turns", type=int, default=9)
  flags = parser.parse_args()
  print(f"jax {jax.__version__}, {jax.devices()}, {flags.steps} steps")
  for name, (shape, divisor, knobs) in NETWORKS.items():
    denoiser = network(shape, knobs)
    ids = np.arange(max(flags.batch // divisor, 1))
    args = (denoiser.params, ids, keys.root(2))
    fns = {"bare": jax.jit(bare(denoiser, flags.steps))}
    for stepper, eta in STEPPERS:
      fns[f"{stepper} eta={eta:g}"] = jax.jit(
        chains.chain(
          denoiser, stepper=stepper, steps=flags.steps, eta=eta,
          guidance=1.0, clip=True,
        )
      )  # fmt: skip
    for fn in fns.values():
      seconds(fn, *args)
    turns = [
      {label: seconds(fn, *args) for label, fn in fns.items()}
      for _ in range(flags.turns)
    ]
    for label in fns:
      times = [turn[label] for turn in turns]
      ratio = statistics.median(turn[label] / turn["bare"] for turn in turns)
      fastest = min(times) / min(turn["bare"] for turn in turns)
      ms = 1e3 * statistics.median(times) / flags.steps
      print(
        f"{name:11} batch {len(ids):4} {label:23} {ms:8.2f} ms a step"
        f"  ratio {ratio:.3f}  of the fastest {fastest:.3f}",
        flush=True,
      )


if __name__ == "__main__":
  main()

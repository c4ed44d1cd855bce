# SPDX-License-Identifier: Apache-2.0
"""What a membership signal adds to the bare cost of its network calls.

  python benchmarks/signals.py [--images=1024] [--batch=512] [--turns=7]
  python benchmarks/signals.py --one-core   # on a machine that is never quiet

Bare is the jitted network on one resident batch, called as often as the
signal calls it, nothing else. Bare and signals run in turns, so that a
machine that others use as well disturbs both alike. Printed are network calls
on images per second, the median of the turns' ratios of rates, and the ratio
of the fastest turns, which a busy machine disturbs least. With --one-core the
seconds are CPU seconds of the process, held to one core. The bar is 0.9.
"""

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import keys, membership, models
from diffmem.denoiser import Denoiser
from diffmem.diffusion import schedules
from diffmem.membership import signals

NETWORKS = {
  "mlp": dict(name="mlp", width=256, blocks=4),
  "unet": dict(
    name="unet", width=16, multipliers=(1, 2), blocks=1, attention=(),
    middle="dense", groups=8,
  ),
}  # fmt: skip
SIGNALS = {
  "loss": ((10, 30, 100, 300), {"draws": 8}),
  "secmi": ((100,), {}),
  "pia": ((100, 200), {}),
  "sima": ((10, 30, 100, 300), {}),
  "pfami": ((100,), {"points": 3}),
  "rediffuse": ((100,), {}),
}


clock = time.perf_counter


def network(knobs) -> Denoiser:
  """A network with its random weights."""
  model = models.create(shape=(8, 8, 1), **knobs)
  return Denoiser(
    schedule=schedules.linear(1000),
    shape=(8, 8, 1),
    params=model.init(keys.root(0)),
    apply=model.apply,
  )


def bare_rate(forward, params, x, t, calls: int) -> float:
  """Images per second of the network alone."""
  start = clock()
  done = [forward(params, x, t, None) for _ in range(calls)]
  jax.block_until_ready(done)
  return calls * len(x) / (clock() - start)


def rate(denoiser, name, images, batch) -> float:
  """Network calls on images per second of one attack's signal."""
  attack, times, options, queries = chosen(name)
  start = clock()
  signals.compute(
    denoiser, images, attack.signal,
    t=times, batch=batch, progress=False, **options,
  )  # fmt: skip
  return queries * len(images) / (clock() - start)


def chosen(name):
  """(attack, times, options of its signal, network calls an image)."""
  attack = membership.ATTACKS[name]
  times, changed = SIGNALS[name]
  options = attack.options(**changed)[0]
  return attack, times, options, attack.queries(t=times, **options)


def main():
  """Prints the table."""
  global clock
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--images", type=int, default=1024)
  parser.add_argument("--batch", type=int, default=512)
  parser.add_argument("--turns", type=int, default=7)
  parser.add_argument("--networks", default=",".join(NETWORKS))
  parser.add_argument("--one-core", action="store_true")
  flags = parser.parse_args()
  if flags.one_core:  # before JAX counts the cores
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
    clock = time.process_time
  print(f"jax {jax.__version__}, {jax.devices()}, batch {flags.batch}")
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (flags.images, 8, 8, 1), np.uint8)
  for label in flags.networks.split(","):
    denoiser = network(NETWORKS[label])
    alone = (
      jax.jit(denoiser.apply),
      denoiser.params,
      jnp.zeros((flags.batch, 8, 8, 1)),
      jnp.full(flags.batch, 100, jnp.int32),
    )
    for name in SIGNALS:
      queries = chosen(name)[-1]
      calls = queries * flags.images // flags.batch
      args = denoiser, name, images, flags.batch
      rate(*args), bare_rate(*alone, 1)
      turns = [
        (rate(*args), bare_rate(*alone, calls)) for _ in range(flags.turns)
      ]
      ratio = statistics.median(a / b for a, b in turns)
      best, bare = (max(column) for column in zip(*turns, strict=True))
      print(
        f"{label:5} {name:10} {queries:3} calls an image"
        f" {best:9.0f}/s, bare {bare:9.0f}/s"
        f"  ratio {ratio:.3f}  of the fastest {best / bare:.3f}",
        flush=True,
      )


if __name__ == "__main__":
  main()

# SPDX-License-Identifier: Apache-2.0
"""What guidance by a classifier adds to sampling: one gradient a step.

  python benchmarks/side.py [--steps=20] [--batch=256] [--turns=5]

Three ways in turns, on one batch: plain sampling; guided sampling, one scan
over the steps; the same as a host loop around a jitted step. Beside them as
many calls of the classifier's gradient, outside any loop. Printed is

  excess = (guided - plain) / gradients

in seconds and in CPU seconds, which a busy machine disturbs less: 1 where a
guided step costs one gradient more and nothing else. The bar is 1.25. On CPUs,
JAX's own gradients of convolutions are many times slower inside a scan
(github.com/jax-ml/jax/issues/12868); those of `models.convolution` are not.
"""

import argparse
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import keys, models
from diffmem.denoiser import Denoiser, guided
from diffmem.diffusion import guidance, schedules
from diffmem.models import classifier
from diffmem.sample import chain

CASES = {
  # name: (shape, batch divisor, denoiser, classifier)
  "mlp 8x8": (
    (8, 8, 1),
    1,
    dict(name="mlp", width=256, blocks=4),
    dict(name="mlp", width=256, blocks=2),
  ),
  "resnet 8x8": (
    (8, 8, 1),
    1,
    dict(
      name="unet", width=16, multipliers=(1, 2), blocks=1, attention=(),
      middle="dense", groups=8,
    ),
    dict(
      name="resnet", width=16, multipliers=(1, 2), blocks=(1, 1), groups=8
    ),
  ),
  "resnet 32x32": (
    (32, 32, 3),
    16,
    dict(
      name="unet", width=32, multipliers=(1, 2), blocks=1, attention=(),
      middle="plain", groups=8,
    ),
    dict(
      name="resnet", width=32, multipliers=(1, 2), blocks=(1, 1), groups=8
    ),
  ),
}  # fmt: skip
CLASSES = 100


def prepare(shape, network: dict, knobs: dict, batch: int, steps: int) -> dict:
  """Every way as a function of nothing, and one gradient."""
  model = models.create(**network, shape=shape)
  weights = model.init(jax.random.key(0))
  base = Denoiser(
    apply=model.apply, params=weights, schedule=schedules.linear(), shape=shape
  )
  made = classifier.create(**knobs, shape=shape, classes=CLASSES, timed=True)
  params = made.init(jax.random.key(1))
  both = guided.by_classifier(base, made.apply, params)
  target = guided.Target(jnp.arange(batch) % CLASSES, jnp.ones(batch))
  options = dict(stepper="ddim", steps=steps, eta=0.0, guidance=1.0, clip=True)
  ids, key = jnp.arange(batch), keys.root(0)
  plain = jax.jit(chain.chain(base, **options))
  scan = jax.jit(chain.chain(both, **options))
  step = jax.jit(both.predict)
  looped = chain.chain(
    dataclasses.replace(
      both,
      eps=lambda x, t, cond: step(both.params, x, t, cond)[0],
      apply=None,
      params=None,
      traceable=False,
    ),
    **options,
  )
  x = jnp.asarray(np.random.default_rng(0).normal(size=(batch, *shape)))
  t = jnp.full(batch, 500)
  gradient = jax.jit(
    lambda p, x, t, y: guidance.classifier_gradient(made.apply, p, x, t, y)
  )
  return {
    "plain": lambda: plain(weights, ids, key),
    "scan": lambda: scan(both.params, ids, key, target),
    "host loop": lambda: looped(None, ids, key, target),
    "gradients": lambda: [
      jax.block_until_ready(gradient(params, x, t, target.classes))
      for _ in range(steps)
    ],
  }


def main() -> None:
  """Prints one block for each case."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--batch", type=int, default=256)
  parser.add_argument("--turns", type=int, default=5)
  args = parser.parse_args()
  print(f"jax {jax.__version__}, {jax.default_backend()}, {args.steps} steps")
  for name, (shape, divisor, network, knobs) in CASES.items():
    batch = args.batch // divisor
    ways = prepare(shape, network, knobs, batch, args.steps)
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for call in ways.values():
      jax.block_until_ready(call())  # compiles
    for _ in range(args.turns):
      for way, call in ways.items():
        start = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        end = time.perf_counter(), time.process_time()
        taken[way].append((end[0] - start[0], end[1] - start[1]))
    print(f"{name}, batch {batch}")
    best = {}
    for way, values in taken.items():
      best[way] = [min(each) for each in zip(*values, strict=True)]
      wall, cpu = (1e3 * value for value in best[way])
      print(f"  {way:10} {wall:9.1f} ms {cpu:9.1f} CPU ms, the best turns")
    for way in ("scan", "host loop"):
      excess = [
        (guided - plain) / gradients
        for guided, plain, gradients in zip(
          best[way], best["plain"], best["gradients"], strict=True
        )
      ]
      print(f"  {way}: excess {excess[0]:.2f}, CPU {excess[1]:.2f}")


if __name__ == "__main__":
  main()

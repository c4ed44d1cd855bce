# SPDX-License-Identifier: Apache-2.0
"""What a cascade adds to the bare cost of its network calls.

  python benchmarks/cascade.py [--steps=25] [--batch=64] [--turns=9]

Bare is a jitted scan of as many calls of the base and of the stage that
enlarges its images, on the same batches and conditions and nothing else:
x <- network(x, t, cond). With guidance every call is on 2b examples, in both.
The two run in turns, so that a machine that others use as well disturbs both
alike. Printed are the median time, the median of the turns' ratios to bare,
and the ratio of the fastest turns, which a busy machine disturbs least. The
bar is 1.10.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import keys, models
from diffmem.denoiser import trained
from diffmem.diffusion import guidance, schedules
from diffmem.models import presets
from diffmem.sample import cascade, chain

DIFFUSION = dict(
  schedule=dict(name="cosine", steps=1000), prediction="v", loss="mse"
)
TEXT = (19, 32)
CHAINS = (
  # guidance, clip
  (1.0, True),
  (3.0, True),
  (3.0, 0.995),
)


def network(shape, low):
  """A small network of the cascade with random weights, none of them zero."""
  knobs = presets.imagen_small(text=TEXT, low=low)
  knobs.pop("learned_variance")
  model = models.create(shape=shape, **knobs)
  leaves, tree = jax.tree.flatten(model.init(keys.root(0)))
  noise = jax.random.split(keys.root(1), len(leaves))
  leaves = [
    leaf + 0.02 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(leaves, noise, strict=True)
  ]
  return trained.build(
    shape, knobs, DIFFUSION, jax.tree.unflatten(tree, leaves)
  )


def bare(denoisers, scale, steps):
  """(params, ids, key, cond) -> what the network calls alone give."""
  times = schedules.respace(1000, steps)[::-1]

  def run(params, ids, key, cond):
    del key
    made = []
    for denoiser, weights in zip(denoisers, params, strict=True):

      def call(p, x, t, c, network=denoiser.apply):
        return network(p, x, t, c), None

      if scale != 1.0:
        call = guidance.guided(call, denoiser.null_cond, scale)
      beside = dict(cond)
      if denoiser.low is not None:
        beside["low"] = jnp.full((len(ids), *denoiser.low), 0.1)
        beside["level"] = jnp.full(len(ids), 50, jnp.int32)

      def body(x, t, call=call, weights=weights, beside=beside):
        t = jnp.full(len(x), t, jnp.int32)
        return call(weights, x, t, beside)[0], None

      x = jnp.full((len(ids), *denoiser.shape), 0.5)
      made.append(jax.lax.scan(body, x, jnp.asarray(times, jnp.int32))[0])
    return made

  return run


def seconds(fn, *args) -> float:
  """Wall time of one call."""
  start = time.perf_counter()
  jax.block_until_ready(fn(*args))
  return time.perf_counter() - start


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=25)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--turns", type=int, default=9)
  flags = parser.parse_args()
  print(f"jax {jax.__version__}, {jax.devices()}, 2 x {flags.steps} steps")
  stages = network((8, 8, 1), None), network((16, 16, 1), 8)
  rng = np.random.default_rng(0)
  ids = np.arange(flags.batch)
  cond = {
    "tokens": rng.standard_normal((len(ids), *TEXT)).astype(np.float32),
    "mask": np.arange(TEXT[0])[None] < rng.integers(1, 20, (len(ids), 1)),
  }
  args = (tuple(s.params for s in stages), ids, keys.root(2), cond)
  for scale, clip in CHAINS:
    settings = dict(
      stepper="ddim", steps=flags.steps, eta=1.0, guidance=scale, clip=clip
    )
    base, up = (chain.chain(stage, **settings) for stage in stages)
    whole = cascade.cascade(
      stages[0], base, [cascade.Upsampler(stages[1], up, 50)]
    )
    fns = {
      "bare": jax.jit(bare(stages, scale, flags.steps)),
      "cascade": jax.jit(whole),
    }
    for fn in fns.values():
      seconds(fn, *args)
    turns = [
      {label: seconds(fn, *args) for label, fn in fns.items()}
      for _ in range(flags.turns)
    ]
    ratio = statistics.median(turn["cascade"] / turn["bare"] for turn in turns)
    fastest = {label: min(turn[label] for turn in turns) for label in fns}
    ms = statistics.median(turn["cascade"] for turn in turns) * 1e3
    print(
      f"guidance {scale:g} clip {clip!s:5} batch {len(ids)}"
      f" {ms / flags.steps:8.2f} ms a step of both  ratio {ratio:.3f}"
      f"  of the fastest {fastest['cascade'] / fastest['bare']:.3f}",
      flush=True,
    )


if __name__ == "__main__":
  main()

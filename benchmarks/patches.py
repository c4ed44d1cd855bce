# SPDX-License-Identifier: Apache-2.0
"""Patch distances of all pairs against the bare product and a NumPy loop.

  python benchmarks/patches.py                          # 96 images, seconds
  python benchmarks/patches.py --images=500 --side=512 --patch=128

Three sides run in turns and medians are printed:

  patch_max   `distances.patch_max` from uint8 images to the matrix
  product     the int8 matrix products of the same shapes alone, every image
              with every one, operands laid out and on the device before
  loop        NumPy, one pair and one patch at a time, on a sample of pairs
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import distances, workdir


def loop(images, patch, pairs):
  """The direct form: the largest RMS over patches, of some pairs."""
  found = []
  for i, j in pairs:
    worst = 0.0
    for top in range(0, images.shape[1], patch):
      for left in range(0, images.shape[2], patch):
        here = np.s_[top : top + patch, left : left + patch]
        x, y = (images[k][here].astype(np.float32) / 255 for k in (i, j))
        worst = max(worst, np.sqrt(np.mean((x - y) ** 2)))
    found.append(worst)
  return np.array(found)


@jax.jit
def product(x):
  """Every image with every one, at each position."""
  by_position = (((2,), (2,)), ((0,), (0,)))
  return jax.lax.dot_general(
    x, x, by_position, preferred_element_type=jnp.int32
  )


def main():
  """Runs and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--images", type=int, default=96)
  parser.add_argument("--side", type=int, default=256)
  parser.add_argument("--patch", type=int, default=64)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--loop-pairs", type=int, default=20)
  args = parser.parse_args()
  n, side, patch = args.images, args.side, args.patch
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
  sample = rng.integers(0, n, (args.loop_pairs, 2))
  rows = rng.integers(
    -128, 128, ((side // patch) ** 2, n, patch * patch * 3), dtype=np.int8
  )
  rows = jax.device_put(rows)
  sides = {
    "patch_max": lambda: distances.patch_max(images, patch),
    "product": lambda: jax.block_until_ready(product(rows)),
    "loop": lambda: loop(images, patch, sample),
  }
  results = {name: side() for name, side in sides.items()}  # compiles
  np.testing.assert_allclose(
    results["patch_max"][tuple(sample.T)], results["loop"], rtol=1e-4
  )
  seconds = {name: [] for name in sides}
  for _ in range(args.rounds):
    for name, side in sides.items():
      start = time.perf_counter()
      side()
      seconds[name].append(time.perf_counter() - start)
  median = {name: statistics.median(times) for name, times in seconds.items()}
  distinct = n * (n - 1) / 2
  rate = distinct / median["patch_max"]
  gflop = 2 * rows.size * n / 1e9
  print(workdir.hardware())
  print(f"{n} images of {args.side} x {args.side} x 3, patches of {patch}")
  print(
    f"patch_max  {median['patch_max']:8.3f} s   {rate:12,.0f} distinct pairs/s"
  )
  print(
    f"product    {median['product']:8.3f} s   "
    f"{gflop / median['product']:12,.0f} GFLOP/s"
  )
  print(
    f"loop       {median['loop']:8.3f} s   "
    f"{len(sample) / median['loop']:12,.1f} pairs/s ({len(sample)} pairs)"
  )
  share = median["product"] / median["patch_max"]
  print(f"patch_max / product rate: {share:.0%}")
  print(f"patch_max / loop rate: {rate * median['loop'] / len(sample):,.0f}x")


if __name__ == "__main__":
  main()

# SPDX-License-Identifier: Apache-2.0
"""The self-join of a set against the bare product and scikit-learn.

  python benchmarks/pairs.py                      # 8,000 made-up images
  python benchmarks/pairs.py --npz=cifar10_20k.npz

Three sides run in turns and medians are printed: `distances.pairs` from uint8
images to edges; the int8 products of its tiles alone (the upper triangle,
operands on the device before); and scikit-learn's radius neighbours in
float32 by brute force, on a part of the rows.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.neighbors import NearestNeighbors

from diffmem import distances, workdir

TILE = 2048


def images_of(path, count):
  """Images of an npz, or noise around a few hundred colours with copies."""
  if path:
    with np.load(path, allow_pickle=False) as saved:
      return saved["images"]
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
  images[-count // 100 :] = images[: count // 100]
  return images


@jax.jit
def product(x, y):
  """The bare product of a tile."""
  last = (((1,), (1,)), ((), ()))
  return jax.lax.dot_general(x, y, last, preferred_element_type=jnp.int32)


def upper(rows):
  """All tiles of the upper triangle, one at a time."""
  for i in range(len(rows)):
    for j in range(i, len(rows)):
      jax.block_until_ready(product(rows[i], rows[j]))


def main():
  """Runs and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--npz", help="a file with uint8 images")
  parser.add_argument("--images", type=int, default=8000)
  parser.add_argument("--threshold", type=float, default=0.08)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--sklearn-rows", type=int, default=500)
  args = parser.parse_args()
  images = images_of(args.npz, args.images)
  n, d = len(images), int(np.prod(images.shape[1:]))
  centred = (images.reshape(n, -1) ^ np.uint8(128)).view(np.int8)
  tiles = [jax.device_put(centred[i : i + TILE]) for i in range(0, n, TILE)]
  floats = images.reshape(n, -1).astype(np.float32)
  radius = args.threshold * 255 * np.sqrt(d)
  brute = NearestNeighbors(radius=radius, algorithm="brute").fit(floats)
  some = floats[: args.sklearn_rows]
  sides = {
    "pairs": lambda: distances.pairs(images, threshold=args.threshold),
    "product": lambda: upper(tiles),
    "sklearn": lambda: brute.radius_neighbors(some, return_distance=False),
  }
  results = {name: side() for name, side in sides.items()}  # compiles
  edges = results["pairs"]
  groups = np.unique(distances.groups(edges, n), return_counts=True)[1]
  seconds = {name: [] for name in sides}
  for _ in range(args.rounds):
    for name, side in sides.items():
      start = time.perf_counter()
      side()
      seconds[name].append(time.perf_counter() - start)
  median = {name: statistics.median(times) for name, times in seconds.items()}
  pairs = n * (n - 1) / 2
  rate = pairs / median["pairs"]
  other = len(some) * n / median["sklearn"]
  print(workdir.hardware())
  print(
    f"{n} images of {d} values, threshold {args.threshold}: {len(edges)} "
    f"pairs, {np.sum(groups > 1)} groups, the largest of {groups.max()}"
  )
  print(f"pairs    {median['pairs']:8.3f} s   {rate:14,.0f} pairs/s")
  print(
    f"product  {median['product']:8.3f} s   "
    f"{pairs / median['product']:14,.0f} pairs/s"
  )
  print(
    f"sklearn  {median['sklearn']:8.3f} s   {other:14,.0f} pairs/s "
    f"({len(some)} rows)"
  )
  print(f"pairs / product rate: {median['product'] / median['pairs']:.0%}")
  print(f"pairs / sklearn rate: {rate / other:,.1f}x")


if __name__ == "__main__":
  main()

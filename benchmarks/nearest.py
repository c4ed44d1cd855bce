# SPDX-License-Identifier: Apache-2.0
"""Exact nearest neighbours against faiss, scikit-learn and the bare product.

  python benchmarks/nearest.py [--full] [--turns=5] [--npz=IMAGES.npz]

In turns, so that a machine that others use as well disturbs all alike:

  nearest   diffmem.distances.nearest: uint8 in, exact top-k out
  bare      the fastest exact matrix product of the same shapes, in tiles,
            its inputs ready and its result dropped: what no search can beat
  faiss     IndexFlatL2, add and search, of float32 copies made before
  sklearn   NearestNeighbors(algorithm="brute"), fit and search, on some of
            the queries (its rate does not depend on how many)

Printed are medians in million pairs a second, wall and per second of CPU
time, and the medians of the turns' ratios; the largest error of each squared
distance; memory beyond the inputs; the time at four sizes of each kind; and
the same search of float vectors.
"""

import argparse
import resource
import statistics
import time

import jax
import numpy as np

from diffmem import distances
from diffmem.distances import knn, metrics, tiled, vectors

try:
  import faiss
except ImportError:
  faiss = None

SKLEARN_QUERIES = 256
SHAPES = ((2048, 1024), (4096, 256), (4096, 4096))


def images(count: int, d: int, seed: int) -> np.ndarray:
  """Random uint8 images, flat."""
  return np.random.default_rng(seed).integers(0, 256, (count, d), np.uint8)


def timed(fn, *args) -> tuple[float, float]:
  """(wall, CPU) seconds of one call."""
  cpu, wall = time.process_time(), time.perf_counter()
  fn(*args)
  return time.perf_counter() - wall, time.process_time() - cpu


def bare(queries, references):
  """() -> None: the best of the exact products, chosen by time on one tile."""
  product = jax.jit(tiled.products, static_argnums=2)
  best = None
  a, b = tiled.centre(queries), tiled.centre(references)
  for form in tiled.FORMS:
    for n, m in SHAPES:
      x, y = jax.device_put(a[:n]), jax.device_put(b[:m])
      jax.block_until_ready(product(x, y, form))
      seconds = min(
        timed(
          lambda x, y, f: jax.block_until_ready(product(x, y, f)), x, y, form
        )[0]
        for _ in range(3)
      )
      rate = len(x) * len(y) / seconds
      if best is None or rate > best[0]:
        best = rate, form, n, m
  _, form, n, m = best
  xs = [jax.device_put(a[i : i + n]) for i in range(0, len(a), n)]
  ys = [jax.device_put(b[i : i + m]) for i in range(0, len(b), m)]

  def run():
    for y in ys:
      for x in xs:
        jax.block_until_ready(product(x, y, form))

  run()
  print(f"bare product: {form} in tiles of {n} x {m}")
  return run


def compare(queries, references, k: int, turns: int) -> None:
  """The table of all searches of one pair of sets."""
  n, m, d = len(queries), len(references), queries.shape[1]
  print(f"\n{n} queries x {m} references x {d} values, top-{k}")
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  found = distances.nearest(queries, references, k)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  print(f"memory beyond the inputs: {(after - before) / 2**20:.2f} GiB")
  some = np.linspace(0, n - 1, 32).astype(int)
  for i in some:  # every distance, by the definition
    all_squared = np.concatenate(
      [
        metrics.squared(queries[i : i + 1], references[j : j + 1000])[0]
        for j in range(0, m, 1000)
      ]
    )
    ids = np.lexsort((np.arange(m), all_squared))[:k]
    np.testing.assert_array_equal(found.ids[i], ids)
    np.testing.assert_array_equal(found.squared[i], all_squared[ids])
  print(f"nearest equals the definition on {len(some)} queries")
  fns = {
    "nearest": (lambda: distances.nearest(queries, references, k), n),
    "bare": (bare(queries, references), n),
  }
  x, y = queries.astype(np.float32), references.astype(np.float32)
  if faiss is not None:
    fns["faiss"] = (lambda: faiss_search(x, y, k), n)
    squared, ids = faiss_search(x[some], y, k)
    exact = np.stack(
      [
        metrics.squared(queries[i : i + 1], references[j])[0]
        for i, j in zip(some, ids, strict=True)
      ]
    )
    print(f"faiss: squared distances off by up to {abs(squared - exact).max()}")
  few = min(SKLEARN_QUERIES, n)
  fns["sklearn"] = (lambda: sklearn_search(x[:few], y, k), few)
  report(fns, m, turns)


def report(fns, m: int, turns: int) -> None:
  """Runs all in turns and prints a line each."""
  rows = [
    {name: (*timed(fn), count * m) for name, (fn, count) in fns.items()}
    for _ in range(turns)
  ]
  for name in fns:
    wall = statistics.median(r[name][2] / r[name][0] for r in rows) / 1e6
    cpu = statistics.median(r[name][2] / r[name][1] for r in rows) / 1e6
    ratios = [
      statistics.median(
        r["nearest"][2] / r["nearest"][i] / (r[name][2] / r[name][i])
        for r in rows
      )
      for i in (0, 1)
    ]
    print(
      f"{name:8} {wall:7.1f} M pairs/s  {cpu:7.1f} M pairs/CPU s  nearest is "
      f"{ratios[0]:5.2f} x that, by CPU time {ratios[1]:5.2f} x",
      flush=True,
    )


def faiss_search(x, y, k: int):
  """(squared, ids) by faiss."""
  index = faiss.IndexFlatL2(y.shape[1])
  index.add(y)
  return index.search(x, k)


def sklearn_search(x, y, k: int):
  """(distances, ids) by scikit-learn."""
  from sklearn.neighbors import NearestNeighbors

  return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(y).kneighbors(x)


def linearity(queries, references, k: int, turns: int) -> None:
  """Seconds at an eighth, a quarter, a half and the whole of each."""
  n, m = len(queries), len(references)
  for name, sizes in (
    ("queries", [(n // i, m) for i in (8, 4, 2, 1)]),
    ("references", [(n, m // i) for i in (8, 4, 2, 1)]),
  ):
    args = [(queries[:a], references[:b], k) for a, b in sizes]
    for some in args:
      distances.nearest(*some)
    rows = [
      [timed(distances.nearest, *some)[0] for some in args]
      for _ in range(turns)
    ]
    seconds = np.median(rows, axis=0)
    print(
      f"by {name}: "
      + ", ".join(
        f"{a} x {b}: {s:.2f} s"
        for (a, b), s in zip(sizes, seconds, strict=True)
      )
    )


def floats(n: int, m: int, k: int, turns: int) -> None:
  """Embeddings of 512 values, l2, equal to float64 brute force."""
  print(f"\n{n} x {m} float vectors of 512 values, top-{k}")
  rng = np.random.default_rng(2)
  x, y = (rng.normal(size=(c, 512)).astype(np.float32) for c in (n, m))
  fns = {"nearest": (lambda: vectors.nearest_vectors(x, y, k), n)}
  if faiss is not None:
    fns["faiss"] = (lambda: faiss_search(x, y, k), n)
  for fn, _ in fns.values():
    fn()
  report(fns, m, turns)


def main():
  """Prints everything."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--full", action="store_true", help="4,096 x 50,000")
  parser.add_argument("--turns", type=int, default=5)
  parser.add_argument("--npz", help="uint8 images to search as well")
  flags = parser.parse_args()
  if faiss is None:
    print("faiss is not installed (pip install faiss-cpu): left out")
  device = jax.devices()[0]
  print(
    f"jax {jax.__version__}, {len(jax.devices())} x {device.device_kind}, form "
    f"{tiled.fastest()}, selection {knn.SELECTION.get(device.platform, 'host')}"
  )
  n, m, k = (4096, 50000, 50) if flags.full else (1024, 8192, 50)
  queries, references = images(n, 3072, 0), images(m, 3072, 1)
  compare(queries, references, k, flags.turns)
  linearity(queries, references, k, flags.turns)
  if flags.npz:
    with np.load(flags.npz, allow_pickle=False) as file:
      every = next(v for v in file.values() if v.dtype == np.uint8)
    every = every.reshape(len(every), -1)
    part = min(n, len(every) // 2)
    compare(every[:part], every[part : part + m], k, flags.turns)
  floats(n, m, k, flags.turns)


if __name__ == "__main__":
  main()

# SPDX-License-Identifier: Apache-2.0
"""What more devices and more processes cost, at equal work on equal cores.

  python benchmarks/processes.py [--turns=5] [--images=2048] [--queries=2048]
      [--references=20000]

The same bank is sampled, and the same neighbours are searched, by

  1 device        one process of one device: the measure
  8 devices       one process of eight virtual devices
  4 x 2 devices   four processes of two, which meet through a folder

on the same cores, so that nothing can be gained: what the time is above that
of one device is the overhead of dividing. All processes stay and take turns,
so that a machine that others use as well disturbs all alike. A turn does a
quarter of the work, then the whole, which parts what grows with it from what
does not (tracing, compiling, meeting, references that are put on the devices):
the first is three quarters' difference, the second what a quarter takes beyond
a third of that. Printed are medians, of the work alone in seconds and CPU
seconds of all processes together, each as a multiple of one device's in the
same turn (the bar is 1.10), and of what is fixed, in seconds. 0 images or 0
queries leave that part out.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

KINDS = {"1 device": (1, 1), "8 devices": (1, 8), "4 x 2 devices": (4, 2)}
SHAPE = (8, 8, 1)
CHUNK = 64
LEAST = 4 * 8 * CHUNK


class Worker:
  """The processes of one kind, which wait for work."""

  def __init__(self, name: str, folder: str, references: int):
    count, devices = KINDS[name]
    env = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": str(devices),
    }
    self.pipes = [
      subprocess.Popen(
        [
          sys.executable,
          __file__,
          f"--worker={i}",
          f"--count={count}",
          f"--folder={folder}/{name.replace(' ', '_')}",
          f"--references={references}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
      )
      for i in range(count)
    ]

  def turn(self, work: str, n: int, name: str) -> list[float]:
    """(wall, CPU) seconds of three quarters of the work, and what is fixed."""
    part = self._run(work, n // 4, f"{name}_part")
    whole = self._run(work, n, f"{name}_whole")
    grows = [b - a for a, b in zip(part, whole, strict=True)]
    return grows + [a - b / 3 for a, b in zip(part, grows, strict=True)]

  def _run(self, work: str, n: int, name: str) -> tuple[float, float]:
    start = time.perf_counter()
    for pipe in self.pipes:
      print(work, n, name, file=pipe.stdin, flush=True)
    answers = [json.loads(pipe.stdout.readline()) for pipe in self.pipes]
    return time.perf_counter() - start, sum(answers)

  def stop(self) -> None:
    """Lets them end."""
    for pipe in self.pipes:
      pipe.stdin.close()
      pipe.stdout.close()
      pipe.wait()


def work(flags: argparse.Namespace) -> None:
  """A worker: does what its standard input says, answers CPU seconds."""
  import numpy as np
  from sampler import NETWORKS, network

  from diffmem import keys, processes, store
  from diffmem.distances import run as search
  from diffmem.sample import bank, run

  processes.join(flags.folder, index=flags.worker, count=flags.count, about={})
  denoiser = network(*[NETWORKS["unet 8x8"][i] for i in (0, 2)])
  generate = run.generator(
    denoiser, stepper="ddim", steps=20, eta=0.0, guidance=1.0, clip=True
  )
  draw = np.random.default_rng(0)
  references = draw.integers(0, 256, (flags.references, 32, 32, 3), np.uint8)

  def sampling(folder, n):
    images = store.create(
      folder, shape=(n, *SHAPE), dtype=np.uint8, chunk=CHUNK
    )
    key = keys.stream(keys.root(0), "sample")
    bank.fill(images, generate, denoiser.params, key, progress=False)

  def distances(folder, n):
    queries = draw.integers(0, 256, (n, 32, 32, 3), np.uint8)
    search.search(
      folder, queries, references, k=10, block=CHUNK, progress=False
    )

  jobs = {"sampling": sampling, "distances": distances}
  for line in sys.stdin:
    name, n, turn = line.split()
    before = time.process_time()
    jobs[name](f"{flags.folder}/{name}_{turn}", int(n))
    print(json.dumps(time.process_time() - before), flush=True)
  processes.leave()


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--turns", type=int, default=5)
  parser.add_argument("--images", type=int, default=2048)
  parser.add_argument("--queries", type=int, default=2048)
  parser.add_argument("--references", type=int, default=20_000)
  parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
  parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
  parser.add_argument("--folder", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.worker is not None:
    work(flags)
    return
  if any(0 < n < LEAST for n in (flags.images, flags.queries)):
    parser.error(
      f"--images and --queries take {LEAST} or more: a quarter of "
      "the work must keep eight devices busy"
    )
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as end:
    pathlib.Path(folder).mkdir(exist_ok=True)
    workers = {name: Worker(name, folder, flags.references) for name in KINDS}
    for worker in workers.values():
      end.callback(worker.stop)
    for job, n in (("sampling", flags.images), ("distances", flags.queries)):
      if not n:
        continue
      for worker in workers.values():  # compiled, caches warm
        worker.turn(job, n, "first")
      turns = [
        {name: worker.turn(job, n, f"{i}") for name, worker in workers.items()}
        for i in range(flags.turns)
      ]
      for name in KINDS:
        table(job, name, turns)


def table(job: str, name: str, turns: list[dict]) -> None:
  """Prints one line of it."""
  wall, cpu, once, once_cpu = (
    statistics.median(values)
    for values in zip(*(turn[name] for turn in turns), strict=True)
  )
  by_wall, by_cpu = (
    statistics.median(turn[name][i] / turn["1 device"][i] for turn in turns)
    for i in (0, 1)
  )
  print(
    f"{job:10} {name:14} {wall:7.2f} s, ratio {by_wall:.3f}"
    f"   CPU {cpu:7.2f} s, ratio {by_cpu:.3f}"
    f"   fixed {once:5.2f} s, CPU {once_cpu:5.2f} s",
    flush=True,
  )


if __name__ == "__main__":
  main()

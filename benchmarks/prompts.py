# SPDX-License-Identifier: Apache-2.0
"""The prompts stage against patch distances alone, on the same bank.

  python benchmarks/prompts.py                          # 1,000 x 64, seconds
  python benchmarks/prompts.py --prompts=6 --images=500 --side=512 --chunk=16

Every image is another smooth random picture, but of the memorized prompts,
half of whose images are copies of one with noise. Printed are the seconds (of
the wall, and of all cores together) of

  read    all images from the store, prompt by prompt
  patch   `patch_max` of each prompt's images, in memory
  stage   the whole stage, which reads, measures, draws controls, tests

and what was found.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np

from diffmem import store, workdir
from diffmem.extraction import prompts, prompts_run
from diffmem.sample import bank


def pictures(rng, count, side):
  """Smooth random pictures: coarse noise, enlarged."""
  coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
  return coarse.repeat(side // 8, 1).repeat(side // 8, 2)


def make(root, args, memorized):
  """The bank on disk."""
  n = args.prompts * args.images
  images = store.create(
    root / "sample" / "images",
    shape=(n, args.side, args.side, 3),
    dtype="uint8",
    chunk=args.chunk,
  )
  source = pictures(np.random.default_rng(0), args.prompts, args.side)
  for number in range(images.chunks):
    rows = np.arange(n)[images.rows(number)]
    rng = np.random.default_rng([1, number])
    values = pictures(rng, len(rows), args.side)
    prompt, place = np.divmod(rows, args.images)
    copies = (prompt < memorized) & (place % 2 == 0)
    noise = rng.integers(-9, 10, values[copies].shape, dtype=np.int16)
    values[copies] = np.clip(source[prompt[copies]] + noise, 0, 255)
    images.write(number, values)
  ids = np.repeat(np.arange(args.prompts), args.images)
  texts = [f"prompt {i}" for i in range(args.prompts)]
  bank.write_beside(root / "sample", prompts=texts, prompt_ids=ids)
  meta = {"status": "finished", "config": vars(args), "inputs": {}}
  workdir.write_json(root / "sample" / "meta.json", meta)
  return images


def main():
  """Runs and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--prompts", type=int, default=1000)
  parser.add_argument("--images", type=int, default=64)
  parser.add_argument("--side", type=int, default=32)
  parser.add_argument("--chunk", type=int, default=512)
  args = parser.parse_args()
  memorized = args.prompts // 20 or 1
  options = dict(
    minimum=10,
    patch=None,
    edge=None,
    edge_rate=0.001,
    flag_rate=0.001,
    unsuspected=None,
    controls=100,
    flat=0.02,
    limit=4096,
    budget=2_500_000,
    delta=0.15,
    duplicates_delta=0.1,
    gallery=48,
  )
  spent = dict.fromkeys(("read", "patch", "stage"), np.zeros(2))
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    images = make(root, args, memorized)
    patch = prompts.default_patch(args.side, args.side)
    prompts.matrix(images[: args.images], patch)  # compiles
    for start in range(0, len(images), args.images):
      before = np.array([time.perf_counter(), time.process_time()])
      own = images[start : start + args.images]
      between = np.array([time.perf_counter(), time.process_time()])
      prompts.matrix(own, patch)
      after = np.array([time.perf_counter(), time.process_time()])
      spent["read"] = spent["read"] + between - before
      spent["patch"] = spent["patch"] + after - between
    before = np.array([time.perf_counter(), time.process_time()])
    prompts_run.run(root, seed=0, prompts=options, progress=False)
    after = np.array([time.perf_counter(), time.process_time()])
    spent["stage"] = after - before
    found = workdir.read_json(root / "prompts" / "results.json")
  print(workdir.hardware())
  print(f"{args.prompts} prompts x {args.images} of {args.side} x {args.side}")
  for name, (wall, cores) in spent.items():
    print(f"{name:6s} {wall:8.2f} s   {cores:8.2f} core seconds")
  ratio = spent["stage"] / (spent["read"] + spent["patch"])
  print(f"stage / (read + patch): {ratio[0]:.2f}   {ratio[1]:.2f}")
  control = found["control"]
  print(
    f"flagged {found['flagged']} of {memorized} memorized; edge "
    f"{found['edge']['value']:.3f} ({found['edge']['method']}); control "
    f"{control['flagged']} of {control['groups']}"
  )


if __name__ == "__main__":
  main()

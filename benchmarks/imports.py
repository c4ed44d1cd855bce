# SPDX-License-Identifier: Apache-2.0
"""The import of a folder or archive of images against a plain PIL loop.

  python benchmarks/imports.py                            # noise of 32 x 32
  python benchmarks/imports.py --npz=cifar10_20k.npz --images=10000
  python benchmarks/imports.py --side=512 --images=1000

The loop opens one file after another and copies pixels into one array in
memory; it checks nothing. The import reads headers, decodes in threads,
hashes, and writes the bank.
"""

import argparse
import pathlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

import numpy as np
from PIL import Image

from diffmem.sample import imports


def make(folder, args, kind):
  """Files of images in sub-folders of ten."""
  if args.npz:
    with np.load(args.npz, allow_pickle=False) as saved:
      images = iter(saved["images"][: args.images])
  else:
    rng = np.random.default_rng(0)
    shape = (args.side, args.side, 3)
    ramp = np.linspace(0, 200, args.side).astype(np.uint8)[:, None, None]
    images = (ramp + rng.integers(0, 8, shape, np.uint8) for _ in
              range(args.images))  # fmt: skip
  for i, image in enumerate(images):
    file = folder / f"prompt {i // 10:04d}" / f"{i:05d}.{kind}"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)


def bring(path, root):
  """Seconds of an import."""
  shutil.rmtree(root, ignore_errors=True)
  start = time.perf_counter()
  imports.run(
    root,
    sample=dict(
      path=str(path),
      prompts=None,
      crop="none",
      resize=None,
      filter="lanczos",
      max_pixels=2**26,
      batch=512,
    ),
    progress=False,
  )
  return time.perf_counter() - start


def loop(folder):
  """Seconds of the plain loop."""
  start = time.perf_counter()
  np.stack(
    [np.asarray(Image.open(file)) for file in sorted(folder.rglob("*.*"))]
  )
  return time.perf_counter() - start


def main():
  """Runs and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--npz", help="a file with uint8 images")
  parser.add_argument("--images", type=int, default=2000)
  parser.add_argument("--side", type=int, default=32)
  parser.add_argument("--rounds", type=int, default=3)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as place:
    place = pathlib.Path(place)
    for kind in ("png", "jpg"):
      folder = place / kind
      make(folder, args, kind)
      archive = place / f"{kind}.tar.gz"
      subprocess.run(["tar", "czf", archive, "-C", folder, "."], check=True)
      sides = {"folder": [], "tar.gz": [], "PIL loop": []}
      for _ in range(args.rounds):
        sides["folder"].append(bring(folder, place / "work"))
        sides["tar.gz"].append(bring(archive, place / "work"))
        sides["PIL loop"].append(loop(folder))
      for side, seconds in sides.items():
        median = statistics.median(seconds)
        print(
          f"{args.images} {kind} {side}: {median:.2f} s, "
          f"{args.images / median:,.0f} images/s"
        )
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  print(f"peak memory of all: {peak:.0f} MiB (the loop holds every image)")


if __name__ == "__main__":
  main()

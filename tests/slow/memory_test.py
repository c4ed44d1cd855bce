# SPDX-License-Identifier: Apache-2.0
"""Eight times as many images are worked on in the memory of a few.

Each stage runs in a program of its own at two sizes; its largest resident size
is compared. The images of the larger one would show if they were held.
"""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from diffmem import store

pytestmark = pytest.mark.slow

BANK = """
import resource, sys
import jax, numpy as np
from diffmem import keys, store
from diffmem.sample import bank

def generate(params, ids, key):
  x = (ids % 256).astype(np.float32)[:, None, None, None] / 127.5 - 1.0
  return x + params + jax.numpy.zeros((len(ids), 8, 8, 3))

images = store.create(
  sys.argv[1], shape=(int(sys.argv[2]), 8, 8, 3), dtype=np.uint8, chunk=4096
)
bank.fill(images, generate, np.float32(0), keys.root(0), progress=False)
assert images.complete()
assert images[-3:][:, 0, 0, 0].tolist() == [253, 254, 255]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""

# argv: the folder of the images, how many, where results go.
READER = """
import resource, sys
import numpy as np
from diffmem import store
images, n, out = store.open(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
assert len(images) == n
{work}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""

SIGNALS = """
from diffmem import denoiser
from diffmem.diffusion import schedules
from diffmem.membership import loss, signals
model = denoiser.Denoiser(
  eps=lambda x, t, c: 0.5 * x, schedule=schedules.linear(10), shape=(16, 16, 3)
)
options = dict(draws=1, seed=0, augment=("identity",))
found = signals.compute(
  model, images, loss.SIGNAL, t=(3,), path=out, progress=False, **options
)
assert found.shape == (n, 1, 1, 1)
"""

DISTANCES = """
from diffmem.distances import knn, run
knn.HOLD = 4 * 2**20  # so that references are streamed
few = images[:256]
queries, references = {order}
run.search(out, queries, references, k=4, block=256, progress=False)
found = store.open(out + "/squared")
assert len(found) == len(queries)
assert (found[:256][:, 0] == 0).all()
"""
READERS = {
  "signals": SIGNALS,
  "queries": DISTANCES.replace("{order}", "images, few"),
  "references": DISTANCES.replace("{order}", "few, images"),
}


def _peak(program: str, root: pathlib.Path, *argv: object) -> int:
  """MiB of resident memory, at most, of a program that prints it."""
  run = subprocess.run(
    [sys.executable, "-c", program, *map(str, argv)],
    capture_output=True,
    text=True,
    cwd=root,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  return int(run.stdout)


def test_a_bank_of_a_million_images_takes_no_more_memory(tmp_path, root):
  small, large = (
    _peak(BANK, root, tmp_path / str(n), n) for n in (2**17, 2**20)
  )
  images = 2**20 * 8 * 8 * 3 // 2**20  # MiB
  assert images > 190
  assert large - small < images // 4


@pytest.fixture(scope="module")
def banks(tmp_path_factory) -> dict[int, pathlib.Path]:
  """Stores of random images, 24 and 192 MiB."""
  folder = tmp_path_factory.mktemp("banks")
  draw = np.random.default_rng(0)
  for n in (2**15, 2**18):
    made = store.create(
      folder / str(n), shape=(n, 16, 16, 3), dtype=np.uint8, chunk=2048
    )
    for number in range(made.chunks):
      made.write(number, draw.integers(0, 256, (2048, 16, 16, 3), np.uint8))
  return {n: folder / str(n) for n in (2**15, 2**18)}


@pytest.mark.parametrize("what", READERS)
def test_reading_eight_times_the_images_takes_no_more(
  banks, root, tmp_path, what
):
  program = READER.replace("{work}", READERS[what])
  small, large = (
    _peak(program, root, banks[n], n, tmp_path / f"{what}{n}") for n in banks
  )
  images = 2**18 * 16 * 16 * 3 // 2**20  # MiB
  assert images == 192
  print(f"{what}: {small} MiB for 24 MiB of images, {large} MiB for 192 MiB")
  assert large - small < images // 4

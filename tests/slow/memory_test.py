# SPDX-License-Identifier: Apache-2.0
"""A bank of a million images is written in the memory of a small one."""

import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
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


def _peak(folder: pathlib.Path, n: int, root: pathlib.Path) -> int:
  """MiB of resident memory, at most, while n images are written."""
  run = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(folder / str(n)), str(n)],
    capture_output=True,
    text=True,
    cwd=root,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  return int(run.stdout)


def test_a_million_images_take_no_more_memory(tmp_path, root):
  small, large = (_peak(tmp_path, n, root) for n in (2**17, 2**20))
  images = 2**20 * 8 * 8 * 3 // 2**20  # MiB
  assert images > 190
  assert large - small < images // 4

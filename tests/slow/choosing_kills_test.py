# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of embedding captions and choosing prompts."""

import os
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from diffmem import data, store, workdir

pytestmark = pytest.mark.slow

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent
IMAGES, KILLS = 8000, 5
SCRIPT = """
import sys
from diffmem import data
from diffmem.data import captions
from diffmem.sample import choosing
root = sys.argv[1]
dataset, _ = data.read(f"{root}/data")
print("started", flush=True)
captions.prepare(root, dataset, encoder="hashed", path=None, length=32,
                 features=512, cut=False, progress=False)
choosing.run(root, seed=0, progress=False, choose=dict(
    table=None, duplicated=20, outliers=20, ordinary=20, delta=0.1,
    neighbours=500, features=None))
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> pathlib.Path:
  """Noise, each image with a caption of its own, some of them near another."""
  root = tmp_path_factory.mktemp("given")
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (IMAGES, 12, 12, 1), dtype=np.uint8)
  images[1:100:2] = images[0:100:2] // 2 * 2
  texts = [f"picture {i} of {i % 7} things" for i in range(IMAGES)]
  np.savez(root / "a.npz", images=images, captions=np.array(texts))
  return root / "a.npz"


def _prepare(root: pathlib.Path, file: pathlib.Path) -> pathlib.Path:
  data.prepare(
    root / "data",
    seed=0,
    source=f"npz:{file}",
    crop="none",
    resize=None,
    filter="lanczos",
    data_dir=None,
    split=dict(
      name="random",
      members=IMAGES,
      held_out=0,
      calibration=0,
      planted=((9, 5),),
      shadows=0,
      path=None,
    ),
  )
  return root


def _start(root: pathlib.Path) -> subprocess.Popen:
  run = subprocess.Popen(
    [sys.executable, "-c", SCRIPT, str(root)],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
  )
  assert run.stdout is not None
  assert run.stdout.readline() == "started\n"
  return run


def _finish(root: pathlib.Path) -> None:
  run = _start(root)
  run.communicate(timeout=600)
  assert run.returncode == 0


def _finished(root: pathlib.Path) -> bool:
  file = root / "choose" / "meta.json"
  return file.exists() and workdir.read_json(file)["status"] == "finished"


def test_kills_lose_nothing(given, tmp_path):
  calm = _prepare(tmp_path / "calm", given)
  start = time.monotonic()
  _finish(calm)
  seconds = time.monotonic() - start
  root = _prepare(tmp_path / "killed", given)
  chance, kept, struck = random.Random(0), set(), 0
  while struck < KILLS:
    run = _start(root)
    time.sleep(chance.uniform(0, 2 * seconds / KILLS))
    run.kill()
    run.communicate()
    if _finished(root):
      break
    struck += 1
    now = {*root.glob("captions/*/c/*/*/*"), *root.glob("choose/outlier/c/*")}
    now = {p for p in now if p.name.isdigit()}
    assert kept <= now, "a chunk was lost"
    kept = now
  assert struck >= KILLS // 2, f"only {struck} kills struck"
  _finish(root)
  table = "choose/prompts_chosen.csv"
  assert (root / table).read_text() == (calm / table).read_text()
  for name in ("captions/tokens", "captions/mask", "choose/outlier"):
    first, second = (store.open(r / name)[:] for r in (calm, root))
    np.testing.assert_array_equal(first, second)

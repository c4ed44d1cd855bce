# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of embedding captions and choosing prompts."""

import functools
import pathlib

import numpy as np
import pytest

from diffmem import data, store, workdir
from tests import kills

pytestmark = pytest.mark.slow

IMAGES = 8000
SCRIPT = """
import sys
from diffmem import data
from diffmem.data import captions
from diffmem.sample import choosing
root = sys.argv[1]
dataset, _ = data.read(f"{root}/data")
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


def _start(root: pathlib.Path):
  return kills.start(("-c", SCRIPT, str(root)), root)


def _chunks(root: pathlib.Path) -> set[pathlib.Path]:
  found = {*root.glob("captions/*/c/*/*/*"), *root.glob("choose/outlier/c/*")}
  return {p for p in found if p.name.isdigit()}


def test_kills_lose_nothing(given, tmp_path):
  calm = _prepare(tmp_path / "calm", given)
  kills.finish(_start(calm))
  seconds = workdir.require(calm, "choose")["seconds"]
  root = _prepare(tmp_path / "killed", given)
  chunks = functools.partial(_chunks, root)

  def files():
    return set(root.glob("c*/**/*"))

  kills.strike(
    functools.partial(_start, root),
    [(files, seconds / 5), *[(chunks, seconds / 5)] * 4],
    done=functools.partial(kills.finished, root / "choose"),
    made=(root / "captions", root / "choose"),
    keeps=chunks,
  )
  kills.finish(_start(root))
  table = "choose/prompts_chosen.csv"
  assert (root / table).read_text() == (calm / table).read_text()
  for name in ("captions/tokens", "captions/mask", "choose/outlier"):
    first, second = (store.open(r / name)[:] for r in (calm, root))
    np.testing.assert_array_equal(first, second)

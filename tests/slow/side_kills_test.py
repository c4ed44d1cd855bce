# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of the side stage, then the same command.

Images, weights and results end as those of a calm run.
"""

import functools
import json
import pathlib
import shutil

import numpy as np
import pytest

from diffmem import store, workdir
from tests import kills

pytestmark = pytest.mark.slow

FLAGS = {
  "side.training.steps": 100,
  "side.training.checkpoint_every": 20,
  "side.n": 256,
  "side.synthetic": 256,
  "side.sampler.steps": 10,
}


begin = functools.partial(
  kills.stage, config="side_small.py:debug", flags=FLAGS
)


def _files(root: pathlib.Path) -> set[pathlib.Path]:
  """Chunks of all images."""
  chunks = root.glob("shadows/*/side/**/images/c/*/*/*/*")
  return {f for f in chunks if f.name.isdigit()}


def test_kills_lose_nothing(tmp_path):
  calm, root = tmp_path / "calm", tmp_path / "killed"
  kills.finish(begin("train", calm))
  root.mkdir()
  for name in ("data", "shadows"):
    shutil.copytree(calm / name, root / name)
  kills.finish(begin("side", calm))
  folders = [root / "shadows" / i / "side" for i in "01"]
  seconds = sum(
    workdir.require(calm / "shadows" / i, "side")["seconds"] for i in "01"
  )
  files = functools.partial(_files, root)
  kills.strike(
    functools.partial(begin, "side", root),
    [
      (functools.partial(kills.runs, *folders), seconds / 8),
      (files, seconds / 8),
    ]
    * 2,
    done=(root / "side" / "results.json").exists,
    made=(root / "side", *folders),
    keeps=files,
  )
  kills.finish(begin("side", root))
  for shadow in ("0", "1"):
    first, second = (r / "shadows" / shadow / "side" for r in (calm, root))
    for bank in ("unguided", "scratch", "distilled", "plain"):
      one, two = (
        store.open(f / "banks" / bank / "images")[:] for f in (first, second)
      )
      np.testing.assert_array_equal(one, two)
    results = [
      json.loads((f / "results.json").read_text()) for f in (first, second)
    ]
    assert results[0] == results[1]
  together = [
    workdir.read_json(r / "side" / "results.json") for r in (calm, root)
  ]
  assert together[0] == together[1]

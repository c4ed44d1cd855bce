# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of the prompts stage: 1,000 prompts x 64 images."""

import functools
import pathlib

import numpy as np
import pytest

from diffmem import store, workdir
from diffmem.sample import bank
from tests import kills

pytestmark = pytest.mark.slow

PROMPTS, EACH, MEMORIZED = 1000, 64, 20


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> pathlib.Path:
  """Noise, but of the first prompts, each half copies of one picture."""
  root = tmp_path_factory.mktemp("given") / "run"
  n = PROMPTS * EACH
  images = store.create(
    root / "sample" / "images", shape=(n, 32, 32, 3), dtype="uint8", chunk=512
  )
  ids = np.arange(n) % PROMPTS  # each prompt lies all over the bank
  for number in range(images.chunks):
    rows = np.arange(n)[images.rows(number)]
    values = np.random.default_rng(number).integers(
      0, 256, (len(rows), 32, 32, 3), dtype=np.uint8
    )
    for i in np.flatnonzero((ids[rows] < MEMORIZED) & (rows < n // 2)):
      one = np.random.default_rng([1, ids[rows[i]]])
      values[i] = one.integers(0, 256, (32, 32, 3)) // 2 + values[i] // 16
    images.write(number, values)
  texts = [f"prompt {i}" for i in range(PROMPTS)]
  bank.write_beside(root / "sample", prompts=texts, prompt_ids=ids)
  meta = {"status": "finished", "config": {}, "inputs": {}}
  workdir.write_json(root / "sample" / "meta.json", meta)
  return root


def test_kills_lose_nothing(given, tmp_path):
  begin = functools.partial(kills.stage, "prompts", config="folder.py")
  calm, root = given, tmp_path / "killed"
  root.mkdir()
  (root / "sample").symlink_to(calm / "sample")
  kills.finish(begin(calm))
  seconds = workdir.require(calm, "prompts")["seconds"] / 4
  folder = root / "prompts"

  def groups():
    return {p for p in folder.glob("pairs/*/*") if p.suffix != ".tmp"}

  kills.strike(
    functools.partial(begin, root),
    [(functools.partial(kills.runs, folder), seconds), (groups, seconds)] * 3,
    done=functools.partial(kills.finished, folder),
    made=(folder,),
    keeps=groups,
  )
  kills.finish(begin(root))
  for file in ("results.json", "ranking.csv", "prompts.csv"):
    first, second = (r / "prompts" / file for r in (calm, root))
    assert first.read_text() == second.read_text()
  found = workdir.read_json(root / "prompts" / "results.json")
  assert found["flagged"] == MEMORIZED
  assert found["undecided"] == 0
  assert found["control"]["flagged"] == 0

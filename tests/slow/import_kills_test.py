# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of an import, then the same command again."""

import functools
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

import diffmem
from diffmem import workdir
from tests import kills

pytestmark = pytest.mark.slow


def _content(root: pathlib.Path) -> dict:
  return {
    file.relative_to(root): file.read_bytes()
    for file in (root / "sample").rglob("*")
    if file.is_file() and file.name not in ("meta.json", ".lock")
  }


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> pathlib.Path:
  """4,000 images of 40 prompts; every 7th is cut, which only decoding shows."""
  folder = tmp_path_factory.mktemp("given") / "images"
  chance = np.random.default_rng(0)
  for i in range(4000):
    file = folder / f"prompt {i % 40}" / f"{i:04d}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = chance.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    if i % 7 == 0:
      os.truncate(file, file.stat().st_size - 300)
  return folder


def test_kills_lose_nothing(given, tmp_path):
  flags = {"sample.path": given, "sample.batch": 16}
  begin = functools.partial(
    kills.stage, "sample", config="folder.py", flags=flags
  )
  calm, root = tmp_path / "calm", tmp_path / "killed"
  kills.finish(begin(calm))
  seconds = workdir.require(calm, "sample")["seconds"] / 12
  folder = root / "sample"

  def chunks():
    return set(folder.glob("images/c/*"))

  kills.strike(
    functools.partial(begin, root),
    [(functools.partial(kills.runs, folder), 0), *[(chunks, seconds)] * 5],
    done=functools.partial(kills.finished, folder),
    made=(folder,),
    keeps=chunks,
  )
  leftover = _content(root)
  kills.finish(begin(root))
  found = _content(root)
  temporary = {file for file in leftover if file not in _content(calm)}
  assert {k: v for k, v in found.items() if k not in temporary} == _content(
    calm
  )
  first, second = (diffmem.open_bank(x) for x in (calm, root))
  np.testing.assert_array_equal(first[:], second[:])
  assert len(first) == 4000 - 572
  for key in ("pixels", "counts", "prompts"):
    assert first.meta[key] == second.meta[key]

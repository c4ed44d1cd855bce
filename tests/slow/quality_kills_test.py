# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of the quality stage, then the same command."""

import functools
import pathlib

import pytest

from diffmem import workdir
from tests import kills

pytestmark = pytest.mark.slow

FLAGS = {
  "models.width": 8,
  "models.multipliers": "(1,)",
  "quality.batch": 32,
  "quality.loss.times": 10,
  "quality.loss.draws": 4,
  "quality.features.training.steps": 4,
}


begin = functools.partial(
  kills.stage, config="digits.py:debug,quality", flags=FLAGS
)


def _kept(folder: pathlib.Path) -> set[tuple[pathlib.Path, int]]:
  """Everything that is made once, and when it was."""
  places = ("done/*.json", "classifier.npz", "*/*/c/*/*")
  files = [file for place in places for file in folder.glob(place)]
  whole = [file for file in files if "_lock" not in file.name]
  return {(file, file.stat().st_mtime_ns) for file in whole}


def test_kills_lose_nothing(tmp_path):
  calm, root = tmp_path / "calm", tmp_path / "killed"
  for stage in ("train", "sample", "quality"):
    kills.finish(begin(stage, calm))
  root.mkdir()
  for name in ("data", "train", "sample"):
    (root / name).symlink_to(calm / name)
  seconds = workdir.require(calm, "quality")["seconds"] / 8
  folder = root / "quality"
  kept = functools.partial(_kept, folder)
  kills.strike(
    functools.partial(begin, "quality", root),
    [(functools.partial(kills.runs, folder), seconds), (kept, seconds)] * 2,
    done=functools.partial(kills.finished, folder),
    made=(folder,),
    keeps=kept,
  )
  kills.finish(begin("quality", root))
  first, second = (
    (r / "quality" / "results.json").read_text() for r in (calm, root)
  )
  assert first == second

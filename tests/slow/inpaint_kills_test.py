# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of the inpaint stage, then the same command."""

import functools

import pytest

from diffmem import workdir
from tests import kills

pytestmark = pytest.mark.slow

FLAGS = {
  "inpaint.targets": 40,
  "inpaint.candidates": 64,
  "inpaint.batch": 64,
  "inpaint.steps": 20,
  "inpaint.resample": 4,
}


begin = functools.partial(
  kills.stage, config="digits_reconstruction.py:debug", flags=FLAGS
)


def test_kills_lose_nothing(tmp_path):
  calm, root = tmp_path / "calm", tmp_path / "killed"
  kills.finish(begin("audit", calm))
  root.mkdir()
  for name in ("data", "shadows"):
    (root / name).symlink_to(calm / name)
  seconds = workdir.require(calm, "inpaint")["seconds"] / 8
  folder = root / "inpaint"

  def targets():
    return set(folder.glob("done/*/*/*.npz"))

  kills.strike(
    functools.partial(begin, "inpaint", root),
    [(functools.partial(kills.runs, folder), seconds), (targets, seconds)] * 2,
    done=functools.partial(kills.finished, folder),
    made=(folder,),
    keeps=targets,
  )
  kills.finish(begin("inpaint", root))
  for file in ("results.json", "targets.csv"):
    first, second = (r / "inpaint" / file for r in (calm, root))
    assert first.read_text() == second.read_text()

# SPDX-License-Identifier: Apache-2.0
"""SIGKILL while shadow models are trained in turn, then the same command.

Whatever the kill strikes, the next run keeps the finished shadows, goes on
with the one it struck, and ends with the weights of a calm run.
"""

import functools
import json
import pathlib

import pytest

from diffmem import workdir
from diffmem.membership import manifest
from tests import kills

pytestmark = pytest.mark.slow

SHADOWS = 6
STEPS = 200
FLAGS = {
  "train.steps": STEPS,
  "train.checkpoint_every": 10,
  "train.preview_every": STEPS,
}


begin = functools.partial(
  kills.stage,
  "train",
  config=f"digits_membership.py:debug,shadows={SHADOWS}",
  flags=FLAGS,
)


def _progress(root: pathlib.Path) -> tuple[int, int]:
  """(shadows finished, checkpoints of the one under way)."""
  for i in range(SHADOWS):
    folder = root / "shadows" / str(i) / "train"
    if not kills.finished(folder):
      return i, len(list(folder.glob("checkpoints/*")))
  return SHADOWS, 0


def _kill(root: pathlib.Path, shadow: int) -> None:
  """Kills a run soon after a checkpoint of this shadow begins."""
  kills.strike(
    functools.partial(begin, root),
    [(lambda: {_progress(root) >= (shadow, 1)}, 0.1)],
    done=lambda: _progress(root)[0] > shadow,
    made=[root / "shadows" / str(i) for i in range(shadow, SHADOWS)],
  )


def test_killed_shadows_go_on_to_the_same_weights(tmp_path):
  calm, root = tmp_path / "calm", tmp_path / "killed"
  kills.finish(begin(calm))
  expected = manifest.read(calm)
  for shadow in (0, 1, 3):
    _kill(root, shadow)
  finished = {
    i: (root / "shadows" / str(i) / "train" / "meta.json").stat().st_mtime_ns
    for i in range(3)
  }
  kills.finish(begin(root))
  found = manifest.read(root)
  assert [m.weights for m in found.models] == [
    m.weights for m in expected.models
  ]
  assert [m.meta["runs"] for m in found.models] == [2, 2, 1, 2, 1, 1]
  for i, kept in finished.items():
    file = root / "shadows" / str(i) / "train" / "meta.json"
    assert file.stat().st_mtime_ns == kept
  for model in found.models:
    lines = (model.folder / "train" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert workdir.require(model.folder, "train")["images"] == 599

# SPDX-License-Identifier: Apache-2.0
"""SIGKILL while each stage of a cascade is trained and its bank is made."""

import functools
import pathlib

import numpy as np
import pytest

from diffmem import workdir
from diffmem.sample import bank
from tests import kills

pytestmark = pytest.mark.slow

FLAGS = {
  "train.steps": 40,
  "train.checkpoint_every": 10,
  "train.log_every": 1,
  "train.preview_every": 1000,
  "sample.batch": 4,
}
# Of a stage, the paths that it is killed at the sight of.
KILLS = {
  "train": (
    "train/checkpoints/20*",
    "upsamplers/0/train/meta.json",
    "upsamplers/0/train/metrics.jsonl",
  ),
  "sample": ("sample/images/c/2*", "sample/images/c/9*"),
}
# A stage's folders, the one that is finished last first.
FOLDERS = {"train": ("upsamplers/0/train", "train"), "sample": ("sample",)}

begin = functools.partial(
  kills.stage, config="imagen_small.py:debug", flags=FLAGS
)


def _kill(stage: str, root: pathlib.Path) -> None:
  """Kills the stage as soon as a path appears that was not there."""
  folders = [root / name for name in FOLDERS[stage]]
  kills.strike(
    functools.partial(begin, stage, root),
    [(lambda at=at: {*root.glob(at)}, 0) for at in KILLS[stage]],
    done=functools.partial(kills.finished, folders[0]),
    made=folders,
  )


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("calm") / "run"
  for stage in ("train", "choose", "sample"):
    kills.finish(begin(stage, root))
  return root


@pytest.fixture(scope="module")
def killed(calm, tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("killed") / "run"
  for stage in ("train", "choose", "sample"):
    if stage in KILLS:
      _kill(stage, root)
    kills.finish(begin(stage, root))
  return root


@pytest.mark.parametrize("stage", [".", "upsamplers/0"])
def test_every_stage_has_the_same_weights(calm, killed, stage):
  metas = [workdir.require(root / stage, "train") for root in (calm, killed)]
  assert metas[0]["weights"] == metas[1]["weights"]
  assert metas[1]["runs"] > metas[0]["runs"] == 1


def test_the_bank_is_bit_identical(calm, killed):
  banks = [bank.open_bank(root) for root in (calm, killed)]
  np.testing.assert_array_equal(banks[1][:], banks[0][:])
  assert banks[1].prompts == banks[0].prompts
  np.testing.assert_array_equal(banks[1].prompt_ids, banks[0].prompt_ids)
  metas = [one.meta["inputs"] for one in banks]
  assert metas[0] == metas[1]

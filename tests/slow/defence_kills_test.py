# SPDX-License-Identifier: Apache-2.0
"""SIGKILL while training is deduplicated and made private, then once more.

The same command goes on to the weights that a calm run makes.
"""

import functools

import pytest

from diffmem import workdir
from tests import kills

pytestmark = pytest.mark.slow

CONFIG = f"""
import runpy
def get_config(arg=""):
  made = runpy.run_path("{kills.ROOT}/configs/defence_small.py")["get_config"]
  config = made("debug,defence=dedup")
  with config.unlocked():
    config.train.privacy = made("debug,defence=dp_clip").train.privacy
    config.train.update(steps=150, checkpoint_every=10, preview_every=150)
  return config
"""


def test_killed_runs_go_on_to_the_weights_of_a_calm_one(tmp_path):
  (tmp_path / "both.py").write_text(CONFIG)
  begin = functools.partial(kills.stage, "train", config=tmp_path / "both.py")
  calm, root = tmp_path / "calm", tmp_path / "killed"
  kills.finish(begin(calm))
  folders = root / "dedup", root / "train"
  seconds = workdir.require(calm, "train")["seconds"]
  kills.strike(
    functools.partial(begin, root),
    [(functools.partial(kills.runs, *folders), seconds / 4)] * 4,
    done=functools.partial(kills.finished, root / "train"),
    made=folders,
  )
  kills.finish(begin(root))
  one, other = (workdir.require(r, "train")["weights"] for r in (calm, root))
  assert one == other
  for name in ("edges.npz", "removed.csv", "gallery.npz"):
    one, other = (r / "dedup" / name for r in (root, calm))
    assert one.read_bytes() == other.read_bytes()
  assert not list(root.rglob("*.tmp"))

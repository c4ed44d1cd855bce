# SPDX-License-Identifier: Apache-2.0
"""Shadow models: halves, streams of their own, one program, going on."""

import copy

import jax
import numpy as np
import pytest

from diffmem import data, workdir
from diffmem.data import streams
from diffmem.denoiser import trained
from diffmem.train import run, shadows

CONFIG = {
  "seed": 0,
  "data": {
    "source": "digits",
    "data_dir": None,
    "crop": "none",
    "resize": None,
    "filter": "lanczos",
    "split": {
      "name": "random",
      "members": 0,
      "held_out": 81,
      "calibration": 20,
      "planted": (),
      "shadows": 4,
      "shadow": None,
      "path": None,
    },
  },
  "models": {
    "name": "mlp",
    "num_classes": None,
    "dtype": "float32",
    "width": 16,
    "blocks": 1,
    "dropout": 0.0,
    "time_scale": 1.0,
  },
  "diffusion": {
    "schedule": {"name": "linear", "steps": 50},
    "prediction": "eps",
    "loss": "mse",
  },
  "train": {
    "batch": 16,
    "steps": 6,
    "lr": 0.01,
    "warmup": 2,
    "decay": "cosine",
    "clip": 1.0,
    "ema": 0.9,
    "flip": False,
    "label_dropout": 0.0,
    "log_every": 3,
    "checkpoint_every": 3,
    "preview_every": 6,
    "preview": 4,
    "tensorboard": False,
  },
}


def _config(**split):
  config = copy.deepcopy(CONFIG)
  config["data"]["split"].update(split)
  return config


@pytest.fixture(scope="module")
def trained_all(tmp_path_factory):
  """A workdir with all shadows, and the programs that were compiled."""
  root = tmp_path_factory.mktemp("shadows")
  programs, create = [], run.program

  def recorded(*args, **kwargs):
    programs.append(create(*args, **kwargs))
    return programs[-1]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run, "program", recorded)
    shadows.run(root, **_config(), progress=False)
  return root, programs


def _meta(root, i):
  return workdir.require(root / "shadows" / str(i), "train")


def test_each_shadow_is_a_whole_workdir(trained_all):
  root, _ = trained_all
  _, whole = data.read(root / "data")
  masks = whole.shadows
  assert not (root / "train").exists()
  for i in range(4):
    own = root / "shadows" / str(i)
    dataset, split = data.read(own / "data")
    np.testing.assert_array_equal(split.members, whole.pool[masks[i]])
    meta = _meta(root, i)
    assert meta["inputs"]["split"] == split.digest
    assert meta["images"] == len(split.members)
    assert meta["config"]["data"]["split"]["shadow"] == i
    images = dataset.take(split.members[:2])
    eps = trained.load(own).eps(
      (images / 127.5 - 1).astype(np.float32), np.array([0, 49]), None
    )
    assert np.isfinite(eps).all()


def test_partners_share_no_image_and_no_two_shadows_their_weights(trained_all):
  root, _ = trained_all
  members = [
    data.read(root / "shadows" / str(i) / "data")[1].members for i in range(4)
  ]
  assert not set(members[0]) & set(members[1])
  assert set(members[0]) & set(members[2])
  assert len({_meta(root, i)["weights"] for i in range(4)}) == 4


def test_one_program_trains_them_all(trained_all):
  _, programs = trained_all
  assert len(programs) == 1
  assert programs[0].step._cache_size() == 1
  assert programs[0].init._cache_size() == 1


def test_one_job_gives_the_same_weights(trained_all, tmp_path):
  root, _ = trained_all
  run.run(tmp_path, **_config(shadow=2), progress=False)
  assert _meta(tmp_path, 2)["weights"] == _meta(root, 2)["weights"]
  assert not (tmp_path / "shadows" / "1").exists()
  # Its own folder is a workdir too; that of another one is not.
  own = tmp_path / "shadows" / "2"
  before = (own / "train" / "meta.json").read_bytes()
  run.run(own, **_config(shadow=2), progress=False)
  assert (own / "train" / "meta.json").read_bytes() == before
  with pytest.raises(ValueError, match="is that of shadow 2"):
    run.run(own, **_config(shadow=1), progress=False)
  shadows.run(tmp_path, **_config(), which=(2, 3), progress=False)
  assert not (tmp_path / "shadows" / "1").exists()
  assert _meta(tmp_path, 3)["weights"] == _meta(root, 3)["weights"]
  whole = [data.read(r / "data")[1].digest for r in (tmp_path, root)]
  assert whole[0] == whole[1]


def test_streams_are_of_the_seed_and_the_shadow(tmp_path):
  """Weights, noise and batches of two shadows differ, and from the main's."""
  seen = []

  def recorded(*args):
    seen.append(args)
    raise KeyboardInterrupt

  program = run.program(
    (8, 8, 1), **{k: CONFIG[k] for k in ("models", "diffusion", "train")}
  )
  spied = run.Program(
    program.model, program.tx, program.init, lambda *args: recorded(*args)
  )
  for shadow in (0, 1, None):
    config = _config(shadow=shadow, members=40, held_out=41)
    with pytest.raises(KeyboardInterrupt):
      run.run(tmp_path, **config, shared=spied, progress=False)
  weights = [jax.tree.leaves(state["params"]) for state, _, _ in seen]
  drawn = [x for x in zip(*weights, strict=True) if np.ptp(x[0]) > 0]
  assert drawn
  assert all((a != b).any() for a, b, _ in drawn)
  assert all((a != c).any() for a, _, c in drawn)
  keys = {jax.random.key_data(key).tobytes() for _, _, key in seen}
  assert len(keys) == 3
  batches = {np.asarray(batch["image"]).tobytes() for _, batch, _ in seen}
  assert len(batches) == 3
  assert len({streams.derived(0, "shadow", i) for i in range(50)}) == 50
  assert streams.derived(1, "shadow", 0) != streams.derived(0, "shadow", 0)


def test_a_stopped_row_of_shadows_goes_on(trained_all, tmp_path, monkeypatch):
  """Stopped inside shadow 1: 0 is kept, 1 goes on, the rest follow."""
  create, calls = run.program, []

  def stopping(*args, **kwargs):
    program = create(*args, **kwargs)

    def step(state, batch, key):
      calls.append(0)
      if len(calls) == 6 + 5:
        raise KeyboardInterrupt
      return program.step(state, batch, key)

    return run.Program(program.model, program.tx, program.init, step)

  with monkeypatch.context() as patch:
    patch.setattr(run, "program", stopping)
    with pytest.raises(KeyboardInterrupt):
      shadows.run(tmp_path, **_config(), progress=False)
  first = tmp_path / "shadows" / "0" / "train" / "meta.json"
  before = first.stat().st_mtime_ns
  shadows.run(tmp_path, **_config(), progress=False)
  assert first.stat().st_mtime_ns == before
  assert [_meta(tmp_path, i)["runs"] for i in range(4)] == [1, 2, 1, 1]
  for i in range(4):
    assert _meta(tmp_path, i)["weights"] == _meta(trained_all[0], i)["weights"]


@pytest.mark.parametrize(
  ("split", "which", "message"),
  [
    ({"shadow": 1}, None, "data.split.shadow=1: that is one shadow's own"),
    ({"shadows": 0, "members": 9}, None, "data.split.shadows=0: ask for an"),
    ({}, (0, 4), "shadow=4: the split has 4 shadows, 0 to 3"),
    ({"shadows": 3}, None, "shadows=3: expected an even number"),
  ],
)
def test_what_cannot_be_is_refused(tmp_path, split, which, message):
  with pytest.raises(ValueError, match=message):
    shadows.run(tmp_path, **_config(**split), which=which, progress=False)
  assert not (tmp_path / "shadows").exists()


def test_a_main_model_needs_members(tmp_path):
  with pytest.raises(ValueError, match="no model to train but the shadows"):
    run.run(tmp_path, **_config(), progress=False)

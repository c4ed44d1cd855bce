# SPDX-License-Identifier: Apache-2.0
"""The train stage: it learns, stops and goes on exactly, and refuses."""

import copy
import gc
import json

import jax
import numpy as np
import pytest

from diffmem import workdir
from diffmem.denoiser import trained
from diffmem.train import run

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
      "members": 40,
      "held_out": 40,
      "calibration": 40,
      "planted": ((5, 2),),
      "shadows": 0,
      "path": None,
    },
  },
  "models": {
    "name": "mlp",
    "num_classes": None,
    "dtype": "float32",
    "width": 32,
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
    "steps": 12,
    "lr": 0.01,
    "warmup": 2,
    "decay": "cosine",
    "clip": 1.0,
    "ema": 0.9,
    "flip": False,
    "label_dropout": 0.0,
    "log_every": 2,
    "checkpoint_every": 4,
    "preview_every": 6,
    "preview": 4,
    "tensorboard": False,
  },
}


def _config(**changes):
  config = copy.deepcopy(CONFIG)
  for key, value in changes.items():
    section, name = key.split("__")
    config[section][name] = value
  return config


def _train(root, config=CONFIG, **kwargs):
  run.run(root, **copy.deepcopy(config), progress=False, **kwargs)
  return workdir.require(root, "train")


def _steps(root):
  lines = (root / "train" / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["step"] for line in lines]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
  root = tmp_path_factory.mktemp("calm")
  return root, _train(root)


def test_it_records_what_it_did(calm):
  root, meta = calm
  assert meta["shape"] == [8, 8, 1]
  assert meta["images"] == 40 + 2 * 4
  assert meta["config"] == workdir.plain(CONFIG)
  assert _steps(root) == [2, 4, 6, 8, 10, 12]
  text = (root / "train" / "metrics.jsonl").read_text()
  line = json.loads(text.splitlines()[0])
  assert set(line) == {
    "step",
    "loss",
    "grad_norm",
    "lr",
    "images_per_second",
    "seconds",
  }
  assert meta["parameters"] == sum(
    x.size for x in jax.tree.leaves(trained.load(root).params)
  )


def test_the_loss_falls(tmp_path):
  _train(tmp_path, _config(train__steps=80, train__log_every=10))
  lines = (tmp_path / "train" / "metrics.jsonl").read_text().splitlines()
  losses = [json.loads(line)["loss"] for line in lines]
  assert np.mean(losses[-3:]) < 0.9 * losses[0]


def test_a_stopped_run_goes_on_to_the_same_weights(calm, tmp_path):
  class Stop(Exception):
    pass

  def stop_at(step):
    def prepare(build, folder):
      def draw(now, params):
        if now == step:
          raise Stop

      return draw

    return prepare

  config = _config(train__preview_every=7)
  with pytest.raises(Stop):
    _train(tmp_path, config, preview=stop_at(7))
  assert _steps(tmp_path)[-1] >= 4  # lines past the checkpoint are redone
  meta = _train(tmp_path, config, preview=stop_at(None))
  assert meta["weights"] == calm[1]["weights"]
  assert meta["runs"] == 2
  assert _steps(tmp_path) == [2, 4, 6, 8, 10, 12]


def test_a_finished_run_is_kept(calm):
  root, meta = calm
  assert _train(root) == meta


def test_the_checkpoint_holds_its_config(calm):
  root, _ = calm
  files = (root / "train" / "checkpoints" / "12").rglob("*")
  held = [f for f in files if f.is_file() and b'"log_every"' in f.read_bytes()]
  assert held


def test_the_denoiser_reads_the_saved_config(calm):
  root, _ = calm
  denoiser = trained.load(root)
  assert denoiser.schedule.steps == 50
  x = np.zeros((2, 8, 8, 1), np.float32)
  eps = denoiser.eps(x, np.array([0, 49], np.int32), None)
  assert eps.shape == x.shape
  assert np.isfinite(eps).all()


def test_a_loss_that_is_not_finite_names_its_step(tmp_path):
  config = _config(train__lr=1e30, train__warmup=0, train__decay="constant")
  with pytest.raises(FloatingPointError, match=r"not finite at step \d+"):
    _train(tmp_path, config)
  with pytest.raises(FileNotFoundError, match="unfinished"):
    workdir.require(tmp_path, "train")


# A read that fails leaves orbax's coroutine unfinished, which pytest reports
# when it is collected: that must be here, not in some later test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_named(calm, tmp_path):
  config = _config(train__steps=4)
  _train(tmp_path, config)
  folder = tmp_path / "train" / "checkpoints" / "4"
  for file in folder.rglob("*"):
    if file.is_file() and file.stat().st_size > 2000:
      content = bytearray(file.read_bytes())
      content[len(content) // 2] ^= 255
      file.write_bytes(content)
  with pytest.raises(ValueError, match=r"checkpoints/4 cannot be read"):
    trained.load(tmp_path)
  gc.collect()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"train__batch": 12}, "batch=12 does not divide over 8 devices"),
    ({"train__steps": 0}, "steps=0 must be at least 1"),
    ({"train__ema": 1.0}, "ema=1.0 must lie in"),
    ({"train__warmup": 13}, "warmup=13"),
    ({"models__num_classes": 5}, "labels run from 0 to 9; set it to 10"),
    ({"models__width": 64}, "was made with models.width = 32"),
  ],
)
def test_bad_input_is_refused(calm, tmp_path, change, message):
  root = calm[0] if "models__width" in change else tmp_path
  with pytest.raises(ValueError, match=message):
    _train(root, _config(**change))


def test_weights_that_are_not_finite_are_refused(tmp_path, monkeypatch):
  _train(tmp_path, _config(train__steps=4))
  restore = trained.checkpoint.Checkpointer.restore

  def spoilt(self, abstract, step):
    parts = restore(self, abstract, step)
    leaves, tree = jax.tree.flatten(parts)
    leaves[0] = leaves[0].at[..., 0].set(np.nan)
    return jax.tree.unflatten(tree, leaves)

  monkeypatch.setattr(trained.checkpoint.Checkpointer, "restore", spoilt)
  with pytest.raises(ValueError, match=r"weights of .* are not finite; train"):
    trained.load(tmp_path)

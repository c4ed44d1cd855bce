# SPDX-License-Identifier: Apache-2.0
"""Signals of all models: the same images and noise, kept, gone on with."""

import copy
import json
import shutil

import numpy as np
import pytest

from diffmem import data
from diffmem.denoiser import trained
from diffmem.membership import loss, manifest, queries, shadow_signals, signals
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
      "members": 13,
      "held_out": 14,
      "calibration": 6,
      "planted": (),
      "shadows": 4,
      "shadow": None,
      "path": None,
    },
  },
  "models": {
    "name": "mlp",
    "num_classes": 10,
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
    "batch": 8,
    "steps": 3,
    "lr": 0.01,
    "warmup": 1,
    "decay": "cosine",
    "clip": 1.0,
    "ema": 0.5,
    "flip": False,
    "label_dropout": 0.1,
    "log_every": 3,
    "checkpoint_every": 3,
    "preview_every": 3,
    "preview": 0,
    "tensorboard": False,
  },
}
OPTIONS = {
  "t": (3, 10),
  "draws": 2,
  "seed": 5,
  "augment": ("identity", "flip"),
  "batch": 16,
  "progress": False,
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
  """A main model and four shadows."""
  root = tmp_path_factory.mktemp("signals") / "run"
  run.run(root, **copy.deepcopy(CONFIG), progress=False)
  shadows.run(root, **copy.deepcopy(CONFIG), progress=False)
  return root


@pytest.fixture(scope="module")
def computed(template):
  queries._compiled.cache_clear()
  found = shadow_signals.compute(
    manifest.read(template), loss.SIGNAL, **OPTIONS
  )
  return found, queries._compiled.cache_info().currsize


def _compute(root, **changes):
  options = OPTIONS | changes
  return shadow_signals.compute(manifest.read(root), loss.SIGNAL, **options)


def test_every_model_on_every_image(template, computed):
  found, _ = computed
  assert found.shape == (5, 27 + 6, 2, 2, 2)
  assert [m.name for m in found.models][:2] == ["main", "shadow_0"]
  dataset, split = data.read(template / "data")
  ids = np.concatenate([split.pool, split.calibration])
  np.testing.assert_array_equal(found.ids, ids)
  np.testing.assert_array_equal(found.inside[0], np.isin(ids, split.members))
  np.testing.assert_array_equal(found.inside[1:, :27], split.shadows)
  assert not found.inside[:, 27:].any()
  values = found.values()
  for row, folder in (
    (0, template),
    (3, template / "shadows" / "2"),
  ):
    alone = signals.compute(
      trained.load(folder),
      dataset.take(ids),
      loss.SIGNAL,
      cond=dataset.labels[dataset.rows(ids)],
      **OPTIONS,
    )
    np.testing.assert_allclose(values[row], alone, rtol=1e-5)
  assert (values[1] != values[2]).all()


def test_one_program_for_all_models(computed):
  assert computed[1] == 1


def test_blocks_are_reduced_as_the_whole(computed):
  found, _ = computed
  means = found.reduced(lambda block: block.mean((2, 3)))
  np.testing.assert_allclose(means, found.values().mean((3, 4)), rtol=1e-6)


def test_what_is_kept_is_not_computed_again(template, computed, monkeypatch):
  def never(*args, **kwargs):
    raise AssertionError("computed again")

  monkeypatch.setattr(shadow_signals.signals, "compute", never)
  monkeypatch.setattr(shadow_signals.targets, "load", never)
  again = _compute(template)
  np.testing.assert_array_equal(again.values(), computed[0].values())


def test_a_missing_block_is_computed_alone(template, computed, tmp_path):
  root = tmp_path / "run"
  shutil.copytree(template, root)
  chunks = root / "membership" / "signals" / "shadow_1" / "losses" / "c"
  kept = {f: f.stat().st_mtime_ns for f in chunks.rglob("0") if f.is_file()}
  lost = chunks / "1"
  assert lost.exists()
  shutil.rmtree(lost)
  again = _compute(root)
  np.testing.assert_array_equal(again.values(), computed[0].values())
  still = {f: f.stat().st_mtime_ns for f in kept if lost not in f.parents}
  assert still
  assert still == {f: kept[f] for f in still}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"seed": 6}, "computed with seed = 5, this run has 6; use another --wo"),
    ({"t": (3, 11)}, r"with t = \[3, 10\], this run has \[3, 11\]"),
    ({"augment": ("identity",)}, "computed with augment ="),
  ],
)
def test_other_options_are_refused(template, computed, change, message):
  with pytest.raises(ValueError, match=message) as error:
    _compute(template, **change)
  assert "signals/main/losses" in str(error.value)


def test_signals_of_other_weights_are_refused(template, computed, tmp_path):
  root = tmp_path / "run"
  shutil.copytree(template, root)
  file = root / "membership" / "signals" / "shadow_3" / "losses.json"
  record = json.loads(file.read_text())
  file.write_text(json.dumps(record | {"weights": "of another day"}))
  with pytest.raises(ValueError, match="shadow_3/losses was computed with wei"):
    _compute(root)

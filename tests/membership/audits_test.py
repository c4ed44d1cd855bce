# SPDX-License-Identifier: Apache-2.0
"""Audits and learnt attacks of the stage, on oracles of known members."""

import copy

import numpy as np
import pytest

import diffmem.data
from diffmem import arrays, workdir
from diffmem.data import canaries
from diffmem.denoiser import finite_set, trained
from diffmem.diffusion import schedules
from diffmem.membership import one_run, run

DATA = {
  "source": "digits",
  "crop": "none",
  "resize": None,
  "filter": "lanczos",
  "data_dir": None,
}
SPLIT = {
  "name": "bernoulli",
  "members": 60,
  "held_out": 60,
  "calibration": 60,
  "planted": (),
  "shadows": 4,
  "shadow": None,
  "path": None,
}
RECIPE = {
  "noise": ((0, 5), (1, 3)),
  "mislabelled": (),
  "reference": 64,
}
CONFIG = {
  "attacks": ("loss",),
  "t": (100,),
  "headline_t": 100,
  "choose": 0.2,
  "criterion": "auc",
  "batch": 64,
  "bootstrap": 20,
  "loss": {"draws": 2, "augment": ("identity",), "over": "mean"},
  "shadow_attacks": {
    "threshold": {"kind": "loss", "draws": 2, "augment": ("identity",)}
  },
  "quantile": {
    "attack": "loss",
    "components": 4,
    "fpr": 0.1,
    "regressor": "linear",
    "bags": 1,
  },
  "gradients": {
    "times": 2,
    "draws": 1,
    "norms": "mean",
    "classifier": "linear",
  },
  "audits": {
    "canaries": {"t": 100, "draws": 2},
    "one_run": {
      "delta": 1e-5,
      "significance": 0.05,
      "outside": 0.5,
      "part": 0.3,
    },
    "sets": {"sizes": (20,), "alpha": 0.01, "resamples": 3, "learn": 0.5},
  },
  "by_step": False,
  "generated": 0,
  "gallery": 1,
  "images": {"neighbours": 2, "most": 1000},
  "controls": {
    "draws": 5,
    "permutations": 5,
    "components": 8,
    "trees": 5,
    "folds": 2,
    "images": 100,
  },
}


def pretend(root, shadow=None, **change):
  """Data, and what training leaves but for the weights."""
  split = SPLIT | {"shadow": shadow} | change
  data = {**DATA, "split": split, "canaries": RECIPE}
  diffusion = {"schedule": {"name": "linear", "steps": 1000}}
  config = {"seed": 0, "data": data, "diffusion": diffusion}
  folder = workdir.of(root, data)
  dataset, drawn = diffmem.data.prepare(folder / "data", seed=0, **data)
  inputs = {"dataset": dataset.info["sha256"], "split": drawn.digest}
  with workdir.stage(folder, "train", config=config, inputs=inputs) as stage:
    stage.record("weights", f"abc {shadow}")


def oracle(root):
  """The optimal denoiser of what a workdir trains on."""
  dataset, split = diffmem.data.read(workdir.path(root) / "data")
  larger, rows = canaries.training(dataset, split)
  images = np.asarray(arrays.from_uint8(larger.images[np.unique(rows)]))
  return finite_set(images, schedules.linear())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("audits")
  for shadow in (None, *range(4)):
    pretend(root, shadow)
  return root


def results_of(root, **change):
  given = copy.deepcopy(CONFIG) | change
  run.run(root, seed=3, membership=given, progress=False)
  return workdir.read_json(root / "membership" / "results.json")


@pytest.fixture(scope="module")
def results(root):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(trained, "load", oracle)
    return results_of(root)


def test_canaries_that_went_in_are_exposed(results):
  found = results["_audits"]["canaries"]
  assert found["inserted"] == 3
  noise = found["noise"]
  assert noise["most"] == 6
  assert noise["by_copies"]["1"]["mean"] == 6
  assert noise["by_copies"]["0"]["mean"] < 4


def test_epsilon_of_a_model_that_memorized_all(results):
  found = results["_audits"]["one_run"]
  assert found["images"] == 120
  bound = found["loss"]
  assert bound["images"] == 84
  assert bound["correct"] == bound["guesses"]
  assert bound["epsilon"] == pytest.approx(
    one_run.epsilon_lower(84, bound["guesses"], bound["correct"], delta=1e-5)
  )
  assert bound["epsilon"] > 2
  assert found["quantile"]["epsilon"] > 1
  assert set(found) == {"images", "loss", "quantile"}


def test_sets_are_found(results):
  found = results["_audits"]["sets"]
  assert found["attacks"] == ["loss", "quantile"]
  (row,) = found["by_size"]
  assert row["size"] == 20
  assert row["power"][0] == 1
  assert row["control"][0] < 1


def test_thresholds_learnt_on_calibration_images(results):
  found = results["quantile"]
  assert found["kind"] == "model"
  assert found["auc"][0] > 0.99
  assert found["flagged"]["members"][0] == 1
  value, low, high = found["flagged"]["non_members"]
  assert low <= value <= high
  assert low < 0.1 < high
  assert found["options"]["attack"] == "loss"
  assert results["_controls"]["non_members"]["quantile"]["passes"]


def test_gradients_of_shadows(results):
  found = results["gradients"]
  assert (found["kind"], found["models"], found["images"]) == ("shadow", 4, 120)
  assert found["auc"][0] > 0.85  # at t = 750 all is noise
  assert found["main"]["auc"][0] > 0.85
  assert found["options"]["times"] == [250, 750]


def test_what_is_missing_is_said(root, tmp_path, monkeypatch):
  """Of shadows alone: no canaries, no coins."""
  monkeypatch.setattr(trained, "load", oracle)
  alone = dict(name="random", members=0, held_out=100)
  diffmem.data.prepare(
    tmp_path / "data", seed=0, **DATA, split=SPLIT | alone, canaries=RECIPE
  )
  for shadow in range(4):
    pretend(tmp_path, shadow, **alone)
  found = results_of(tmp_path, gradients=None)
  audits = found["_audits"]
  assert "no model was given canaries" in audits["canaries"]["missing"]
  assert "inclusion was not by coins" in audits["one_run"]["missing"]
  assert audits["sets"]["by_size"][0]["power"][0] == 1
  assert found["quantile"]["models"] == 4
  assert found["quantile"]["auc"][0] > 0.97


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"quantile": {"attack": "loss"}}, "membership.quantile has the keys att"),
    (
      {"quantile": CONFIG["quantile"] | {"attack": "pia"}},
      r"membership.quantile.attack = 'pia': expected one of",
    ),
    (
      {"quantile": CONFIG["quantile"] | {"fpr": 0.001}},
      "60 calibration images cannot tell a quantile",
    ),
    (
      {"gradients": CONFIG["gradients"] | {"classifier": "net"}},
      "classifier 'net': choose one of",
    ),
    (
      {"gradients": CONFIG["gradients"] | {"times": 0}},
      "times = 0, expected at least 1",
    ),
    (
      {"gradients": CONFIG["gradients"] | {"draws": 2}},
      "gradients was computed with draws = 1, this run has 2",
    ),
    ({"shadow_attacks": {}}, "membership.gradients needs shadow models"),
    ({"audits": {}}, "membership.audits has the keys none: expected"),
    (
      {"audits": CONFIG["audits"] | {"sets": {"sizes": (20,)}}},
      "membership.audits.sets has the keys sizes: expected alpha, learn",
    ),
    (
      {
        "audits": CONFIG["audits"]
        | {"sets": CONFIG["audits"]["sets"] | {"sizes": (500,)}}
      },
      "a set of size 500: expected 8",
    ),
    (
      {
        "audits": CONFIG["audits"]
        | {"one_run": CONFIG["audits"]["one_run"] | {"part": 1.0}}
      },
      r"part is 1.0: expected",
    ),
  ],
)
def test_refused_before_the_model_is_loaded(
  root, results, monkeypatch, change, message
):
  assert results
  monkeypatch.setattr(trained, "load", lambda root: pytest.fail("loaded"))
  with pytest.raises(ValueError, match=message):
    results_of(root, **change)

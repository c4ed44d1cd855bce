# SPDX-License-Identifier: Apache-2.0
"""The side stage on two tiny twins, and what pairs say together."""

import shutil

import numpy as np
import pytest

import diffmem.data
from diffmem import workdir
from diffmem.bin import program
from diffmem.extraction import side_pairs, side_run
from diffmem.train import shadows

pytestmark = pytest.mark.slow  # what it compiles takes half a minute


@pytest.fixture(scope="module")
def config(root):
  config = program.load_config(f"{root}/configs/side_small.py:debug").to_dict()
  config["side"]["methods"] = ("scratch", "plain", "lora")
  return config


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
  """Two twins, trained for a moment."""
  folder = workdir.path(tmp_path_factory.mktemp("side"))
  sections = ("data", "models", "diffusion", "train")
  shadows.run(
    folder, seed=0, progress=False, **{name: config[name] for name in sections}
  )
  return folder


@pytest.fixture(scope="module")
def finished(trained, config):
  side_run.run(trained, seed=0, side=config["side"], progress=False)
  return trained


def test_training_data_are_not_seen_before_scoring(
  trained, config, tmp_path, monkeypatch
):
  """Without any, every bank is made; with loading them an error, too."""
  root = workdir.path(tmp_path / "alone")
  shutil.copytree(trained / "shadows" / "0", root)
  (root / "data").rename(tmp_path / "data")
  side = {**config["side"], "methods": ("plain",)}

  def run():
    side_run.run(root, seed=0, side=side, progress=False)

  with monkeypatch.context() as patched:

    def refuse(*_args, **_options):
      raise AssertionError("training data were read")

    for name in ("read", "load", "prepare"):
      patched.setattr(diffmem.data, name, refuse)
    with pytest.raises(AssertionError, match="were read"):
      run()
  made = root / "side"
  for bank in ("unguided", "plain"):
    images = made / "banks" / bank / "images"
    assert len(list((images / "c").iterdir())) == 1, bank
  assert not (made / "results.json").exists()
  assert (made / "accuracy.json").exists()
  with pytest.raises(FileNotFoundError):
    run()
  (tmp_path / "data").rename(root / "data")
  before = (made / "banks" / "plain" / "images" / "zarr.json").stat().mtime
  run()
  found = workdir.read_json(made / "results.json")
  assert set(found["scores"]) == {"plain"}
  after = (made / "banks" / "plain" / "images" / "zarr.json").stat().mtime
  assert before == after


def test_results_hold_both_halves_at_every_scale(finished, config):
  for shadow in ("0", "1"):
    found = workdir.read_json(
      finished / "shadows" / shadow / "side" / "results.json"
    )
    assert set(found["scores"]) == {"scratch", "plain", "lora"}
    assert set(found["scores"]["lora"]) == {"1.0"}
    scores = found["scores"]["scratch"]["1.0"]
    assert scores["members"]["references"] == 299
    assert scores["held_out"]["references"] == 299
    for of in ("members", "held_out"):
      assert set(scores[of]["bands"]) == {"high", "mid", "low"}
      for both in scores[of]["rates"].values():
        assert set(both) == {"generations", "ids"}
    assert set(found["accuracy"]) == {"t", "images", "scratch", "plain"}
    assert workdir.require(finished / "shadows" / shadow, "side")


def test_twins_start_from_other_noise(finished):
  banks = [
    finished / "shadows" / s / "side" / "synthetic" / "images" / "c" / "0"
    for s in ("0", "1")
  ]
  assert banks[0].exists()
  assert banks[1].exists()
  seeds = {side_run._own(finished / "shadows" / s, 0) for s in ("0", "1")}
  assert len(seeds) == 2


def test_the_gallery_shows_clusters(finished):
  file = finished / "side" / "gallery.npz"
  with np.load(file, allow_pickle=False) as pictures:
    assert pictures["synthetic"].shape == (2, side_run.SHOWN, 8, 8, 1)
    assert pictures["guided"].shape == pictures["training"].shape
    assert (np.diff(pictures["cohesion"]) <= 0).all()
    away = pictures["distances"]
    assert (away[:, 1:] >= away[:, :-1]).all()
    some = np.isfinite(away)
    gap = pictures["guided"].astype(float) - pictures["training"]
    rms = np.sqrt((gap**2).mean(axis=(2, 3, 4))) / 255
    np.testing.assert_allclose(rms[some], away[some], atol=1e-9)


def test_a_finished_stage_is_kept(finished, config):
  before = (finished / "side" / "results.json").stat().mtime
  side_run.run(finished, seed=0, side=config["side"], progress=False)
  assert (finished / "side" / "results.json").stat().mtime == before


def test_other_options_are_refused(finished, config):
  side = {**config["side"], "n": 33}
  with pytest.raises(ValueError, match=r"was made with side\.n = 32"):
    side_run.run(finished, seed=0, side=side, progress=False)


def test_no_model_is_an_error(config, tmp_path):
  with pytest.raises(FileNotFoundError, match="diffmem-train"):
    side_run.run(tmp_path, seed=0, side=config["side"], progress=False)


def test_a_missing_twin_is_an_error(config, tmp_path):
  for name in ("0", "1", "3"):
    (tmp_path / "shadows" / name).mkdir(parents=True)
  with pytest.raises(ValueError, match="0, 1, 3: side compares pairs"):
    side_run.run(tmp_path, seed=0, side=config["side"], progress=False)


def test_the_scale_of_a_pair_is_chosen_on_the_others():
  """Row 1 is best by pair 2 alone, which therefore does not choose it."""
  values = np.array([[1.0, 1.0, 0.0], [0.9, 0.9, 9.0]])
  np.testing.assert_array_equal(side_pairs.choose(values), [1, 1, 0])
  np.testing.assert_array_equal(side_pairs.choose(values[:, :1]), [1])


def test_student_s_interval():
  found = side_pairs.interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
  assert found["mean"] == 3.0
  half = 2.776445 * np.sqrt(2.5 / 5)
  np.testing.assert_allclose(found["interval"], [3 - half, 3 + half], rtol=1e-6)
  assert side_pairs.interval(np.array([1.0]))["interval"] is None


def result(own, other):
  """A model's results with these AMS, by scale, in the only way there is."""

  def scores(a, b):
    return {
      of: {
        "rates": {
          "0.01": {u: dict(ams=v, ums=v) for u in ("generations", "ids")}
        },
        "bands": {"high": {"cumulative": dict(ams=v, ums=v)}},
      }
      for of, v in (("members", a), ("held_out", b))
    }

  return {
    "n": 10,
    "scales": [1.0, 2.0],
    "methods": ["scratch"],
    "clusters": {},
    "accuracy": {},
    "unguided": scores(0.1, 0.0),
    "scores": {
      "scratch": {
        s: scores(a, b)
        for s, a, b in zip(("1.0", "2.0"), own, other, strict=True)
      }
    },
  }


def test_pairs_compare_what_the_own_half_has_beyond_the_other():
  results = [
    result((0.3, 0.9), (0.0, 0.9)),  # guidance to 2 makes anything alike
    result((0.5, 0.9), (0.0, 0.9)),
    result((0.4, 0.9), (0.2, 0.9)),
    result((0.4, 0.9), (0.0, 0.9)),
  ]
  found = side_pairs.together(["0", "1", "2", "3"], results)
  ams = found["pairs"]["AMS, 0.01"]
  assert ams["scratch"]["places"].tolist() == [0, 0]
  chosen = ams["scratch"]["chosen"]
  assert chosen["own"]["mean"] == pytest.approx(0.4)
  assert chosen["other"]["mean"] == pytest.approx(0.05)
  assert ams["scratch"]["gain"]["unguided"]["mean"] == pytest.approx(0.25)
  assert ams["scratch"]["by_scale"]["net"][1]["mean"] == pytest.approx(0.0)
  assert set(found["pairs"]) == {
    "AMS, 0.01", "UMS, 0.01", "AMS, high", "UMS, high",
  }  # fmt: skip

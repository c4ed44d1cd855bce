# SPDX-License-Identifier: Apache-2.0
"""The whole audit on a tiny model: the files and keys that scripts rely on."""

import copy
import csv
import importlib.util
import json

import pytest

import diffmem
from diffmem.bin import program


@pytest.fixture(scope="module")
def config(root):
  path = root / "configs" / "digits.py"
  spec = importlib.util.spec_from_file_location("digits", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  found = module.get_config("debug,quality").to_dict()
  found["models"] = {
    "name": "mlp",
    "num_classes": None,
    "dtype": "float32",
    "width": 16,
    "blocks": 1,
    "dropout": 0.0,
    "time_scale": 1.0,
  }
  found["train"].update(steps=8, checkpoint_every=8, preview_every=8)
  found["sample"].update(n=64, batch=8, steps=2)
  found["quality"]["features"].update(name="pixels")
  found["quality"].update(batch=64)
  found["membership"].update(batch=64, attacks=("loss", "pia"))
  return found


@pytest.fixture(scope="module")
def audited(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("audit") / "run"
  results = diffmem.audit(workdir, **copy.deepcopy(config), progress=False)
  return workdir, results


def test_every_stage_says_which_version_made_it(audited):
  workdir, results = audited
  made = list(workdir.glob("*/meta.json"))
  assert {path.parent.name for path in made} >= {"data", "report"}
  assert {path.parent.name for path in made} >= set(results["stages"])
  for path in made:
    assert json.loads(path.read_text())["version"] == diffmem.__version__


def test_results_hold_what_is_promised(audited, config):
  workdir, results = audited
  report = workdir / "report"
  assert results == json.loads((report / "results.json").read_text())
  extraction = results["extraction"]
  assert extraction["generated"] == 64
  assert extraction["unique"] >= 0
  planted = {key: value[1] for key, value in extraction["planted"].items()}
  assert planted == {"50": 4, "20": 6, "10": 4, "5": 4, "2": 4, "1": 577}
  assert extraction["held_out"]["searched"] == 599
  assert 0 < extraction["rule"]["delta"] < 1
  loss = results["membership"]["loss"]
  value, low, high = loss["auc"]
  assert low <= value <= high
  assert len(loss["tpr@0.01"]) == 3
  assert loss["tpr@0.001"] is None  # 599 non-members cannot show it
  assert set(results["stages"]) >= {"train", "sample", "distances"}
  assert all(s["seconds"] > 0 for s in results["stages"].values())
  assert results["quality"]["images"] == 64
  assert results["quality"]["loss"]["images"]["members"] == 599
  assert results["config"]["train"]["lr"] == config["train"]["lr"]
  assert results["version"] == diffmem.__version__


def test_the_files_beside_the_page(audited):
  report = audited[0] / "report"
  page = (report / "index.html").read_text()
  assert "<html" in page
  assert "http://" not in page.replace("http://www.w3.org", "")
  with open(report / "scores.csv") as f:
    rows = list(csv.DictReader(f))
  assert len(rows) == 599 * 2
  assert {row["member"] for row in rows} == {"0", "1"}
  assert all(float(row["loss"]) < 0 for row in rows)
  with open(report / "matches.csv") as f:
    matches = list(csv.DictReader(f))
  assert len(matches) == audited[1]["extraction"]["unique"]


def test_a_finished_audit_is_kept(audited, config):
  workdir, results = audited
  bank = workdir / "sample" / "images" / "c" / "0" / "0" / "0" / "0"
  before = bank.stat().st_mtime_ns
  again = diffmem.audit(workdir, **copy.deepcopy(config), progress=False)
  assert again == results
  assert bank.stat().st_mtime_ns == before


@pytest.mark.parametrize(
  ("split", "expected"),
  [
    ({}, ["main"]),
    ({"shadows": 4}, ["main", "shadows"]),
    ({"shadows": 4, "members": 0}, ["shadows"]),
    ({"shadows": 4, "members": None}, ["main", "shadows"]),
    ({"shadows": 4, "members": 0, "shadow": 3}, ["main"]),
    ({"shadows": 4, "shadow": 3}, ["main"]),
  ],
)
def test_what_is_trained_follows_from_the_split(
  config, tmp_path, monkeypatch, split, expected
):
  """Of one shadow's config, the train stage trains that shadow."""
  import diffmem.audit.stages as module

  called = []
  monkeypatch.setattr(module.fit, "run", lambda *a, **k: called.append("main"))
  monkeypatch.setattr(
    module.shadows, "run", lambda *a, **k: called.append("shadows")
  )
  found = copy.deepcopy(config)
  found["data"]["split"].update(split)
  names = ("seed", "data", "models", "diffusion", "train", "sample")
  module.fit_model(tmp_path, **{name: found[name] for name in names})
  assert called == expected


def test_it_is_callable_however_it_was_imported():
  import diffmem.audit as module

  assert callable(module)
  assert callable(diffmem.audit)
  assert module.run is diffmem.audit.run


def test_an_audit_of_another_config_is_refused(audited, config):
  other = copy.deepcopy(config)
  other["train"]["lr"] = 0.5
  with pytest.raises(
    ValueError, match=r"train\.lr = 0\.002, this run has 0\.5"
  ):
    diffmem.audit(audited[0], **other, progress=False)
  assert "another --workdir" in program.one_line(
    pytest.raises(
      ValueError, diffmem.audit, audited[0], **other, progress=False
    ).value
  )

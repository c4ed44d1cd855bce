# SPDX-License-Identifier: Apache-2.0
"""The stage: files, who is reported on, resumed, refused; with shadows too."""

import copy
import csv
import json

import numpy as np
import pytest

import diffmem.data
from diffmem import arrays, membership, stats, store, workdir
from diffmem.denoiser import finite_set, trained
from diffmem.diffusion import schedules
from diffmem.membership import run, signals

LIRA = {
  "kind": "lira",
  "draws": 2,
  "augment": ("identity",),
  "variant": "online",
  "variance": "fixed",
  "statistic": "loss",
  "augmentations": "mean",
}
CONFIG = {
  "attacks": ("loss",),
  "t": (10, 100),
  "headline_t": 100,
  "choose": 0.3,
  "criterion": "auc",
  "batch": 40,
  "bootstrap": 50,
  "loss": {"draws": 2, "augment": ("identity",), "over": "mean"},
  "sima": {"t": (10,), "p": 4},
  "pia": {"p": 4, "normalise": "none"},
  "pian": {"p": 4, "normalise": "consistent"},
  "shadow_attacks": {},
  "quantile": None,
  "gradients": None,
  "audits": {"canaries": None, "one_run": None, "sets": None},
  "by_step": False,
  "generated": 0,
  "gallery": 3,
  "images": {"neighbours": 2, "most": 1000},
  "controls": {
    "draws": 20,
    "permutations": 20,
    "components": 8,
    "trees": 5,
    "folds": 2,
    "images": 100,
  },
}
SPLIT = {
  "name": "random",
  "members": 60,
  "held_out": 50,
  "calibration": 10,
  "planted": ((20, 3), (5, 4)),
  "shadows": 0,
  "shadow": None,
  "path": None,
}
DATA = {
  "source": "digits",
  "crop": "none",
  "resize": None,
  "filter": "lanczos",
  "data_dir": None,
}


def pretend(root, split):
  """Data, and what training leaves but for the weights; the split."""
  config = {"seed": 0, "data": {**DATA, "split": split}}
  folder = workdir.of(root, config["data"])
  dataset, drawn = diffmem.data.prepare(
    folder / "data", seed=0, **config["data"]
  )
  inputs = {"dataset": dataset.info["sha256"], "split": drawn.digest}
  with workdir.stage(folder, "train", config=config, inputs=inputs) as stage:
    stage.record("weights", f"abc {split['shadow']}")
  return drawn


def oracle(root):
  """The optimal denoiser of a workdir's members."""
  dataset, split = diffmem.data.read(workdir.path(root) / "data")
  images = np.asarray(arrays.from_uint8(dataset.take(split.members)))
  return finite_set(images, schedules.linear())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A workdir whose model is the optimal denoiser of its members."""
  root = tmp_path_factory.mktemp("run")
  return root, pretend(root, SPLIT), oracle(root)


@pytest.fixture
def root(prepared, tmp_path, monkeypatch):
  for name in ("data", "train"):
    (tmp_path / name).symlink_to(prepared[0] / name)
  monkeypatch.setattr(trained, "load", lambda root: prepared[2])
  return tmp_path


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
  """A workdir whose stage has run once, by CONFIG."""
  root = tmp_path_factory.mktemp("finished")
  for name in ("data", "train"):
    (root / name).symlink_to(prepared[0] / name)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(trained, "load", lambda root: prepared[2])
    go(root)
  return root


def results_of(root, **change):
  given = copy.deepcopy(CONFIG) | change
  run.run(root, seed=3, membership=given, progress=False)
  return workdir.read_json(root / "membership" / "results.json")


def go(root, **change):
  return results_of(root, **change)["loss"]


def table(root):
  with open(root / "membership" / "scores.csv") as file:
    return list(csv.DictReader(file))


def test_files_and_numbers(root, prepared):
  """At a time fixed in advance every image is reported on."""
  got = go(root)
  split = prepared[1]
  assert (got["t"], got["chosen"], got["draws"]) == (100, None, 2)
  assert (got["members"], got["non_members"]) == (53, 50)
  rows = table(root)
  assert list(rows[0]) == ["id", "member", "copies", "used", "loss"]
  ids = np.array([int(row["id"]) for row in rows])
  np.testing.assert_array_equal(
    ids, np.concatenate([split.members, split.held_out])
  )
  member = np.array([int(row["member"]) for row in rows])
  copies = np.array([int(row["copies"]) for row in rows])
  scores = np.array([float(row["loss"]) for row in rows])
  assert {row["used"] for row in rows} == {"report"}
  np.testing.assert_array_equal(member, np.repeat([1, 0], [60, 50]))
  np.testing.assert_array_equal(copies[:60], split.copies)
  assert not copies[60:].any()
  once, never = scores[copies == 1], scores[copies == 0]
  np.testing.assert_allclose(got["auc"][0], stats.auc(once, never))
  assert got["auc"][0] > 0.99
  assert got["auc"][1] <= got["auc"][0] <= got["auc"][2]
  assert got["tpr@0.01"] is None  # 50 non-members cannot resolve it
  assert list(got["by_copies"]) == ["20", "5"]
  np.testing.assert_allclose(
    got["by_copies"]["20"][0], stats.auc(scores[copies == 20], never)
  )
  assert [row["t"] for row in got["sweep"]] == [10, 100]
  assert [row["exploratory"] for row in got["sweep"]] == [True, False]
  assert got["sweep"][1]["auc"] == got["auc"]
  with np.load(root / "membership" / "roc.npz") as curves:
    fpr, tpr = curves["loss_fpr"], curves["loss_tpr"]
  np.testing.assert_allclose(np.trapezoid(tpr, fpr), got["auc"][0])
  kept = store.open(root / "membership" / "signals" / "main" / "losses")
  assert kept.shape == (120, 2, 2, 1)
  mean = kept[:][:, 1].mean((1, 2), dtype=np.float64)
  places = np.searchsorted(split.pool, ids)
  np.testing.assert_allclose(-mean[places], scores, rtol=1e-6)


def test_scores_are_those_of_the_library(root, prepared):
  go(root)
  dataset, split = diffmem.data.read(root / "data")
  alone = membership.score(
    "loss",
    prepared[2],
    dataset.take(split.held_out[:6]),
    t=100,
    draws=2,
    seed=3,
  )
  rows = table(root)[60:66]
  np.testing.assert_allclose(
    [float(row["loss"]) for row in rows], alone, rtol=1e-5
  )


def test_a_time_is_chosen_on_images_set_aside(root):
  got = results_of(root, headline_t=None)
  loss, parts = got["loss"], got["_parts"]
  assert loss["chosen"]["on"] == {"members": 16, "non_members": 15}
  assert loss["chosen"]["t"] == loss["t"]
  assert (loss["members"], loss["non_members"]) == (37, 35)
  assert parts["report"] == {"members": 37, "non_members": 35}
  assert (parts["planted"], parts["calibration"]) == (7, 10)
  rows = table(root)
  used = [row for row in rows if row["used"] == "choose"]
  assert len(used) == 31
  assert {row["copies"] for row in used} == {"0", "1"}
  reported = [row for row in rows if row["used"] == "report"]
  once = [float(r["loss"]) for r in reported if r["copies"] == "1"]
  never = [float(r["loss"]) for r in reported if r["copies"] == "0"]
  assert loss["auc"][0] == pytest.approx(
    stats.auc(np.array(once), np.array(never))
  )


def test_several_attacks_and_their_controls(root):
  names = ("loss", "pia", "pian", "sima")
  got = results_of(root, attacks=names, headline_t=None)
  assert [k for k in got if not k.startswith("_")] == list(names)
  assert got["sima"]["t"] == 10  # its own times; one, so none is chosen
  assert got["pia"]["queries"] == 3
  assert all(got[name]["auc"][0] > 0.9 for name in names)
  kept = root / "membership" / "signals" / "main"
  found = {p.name for p in kept.iterdir() if p.is_dir()}
  assert found == {
    "losses",
    "proximal_errors",
    "proximal_errors_pian",
    "clean_scores",
  }
  controls = got["_controls"]
  assert set(controls) == {
    "blind",
    "random",
    "shuffled",
    "non_members",
    "generated",
  }
  assert controls["blind"]["images"] == 100  # no planted ones
  assert controls["random"]["scores"]["passes"]
  assert set(controls["shuffled"]) == set(controls["non_members"]) == {*names}
  for kind in ("shuffled", "non_members"):
    assert all(value["passes"] for value in controls[kind].values()), kind
  assert controls["shuffled"]["loss"]["p"] == pytest.approx(1 / 21)
  assert "generated = 0" in controls["generated"]["skipped"]
  assert "has not finished" in got["_joined"]["skipped"]
  assert "is off" in got["_by_step"]["skipped"]


def test_easiest_and_hardest_images(root, prepared):
  images = results_of(root)["_images"]
  dataset = diffmem.data.read(root / "data")[0]
  rows = {int(row["id"]): row for row in table(root)}
  for name, group in images["groups"].items():
    assert len(group["ids"]) == 3
    member = "1" if name.startswith("members") else "0"
    scores = [float(rows[i]["loss"]) for i in group["ids"]]
    assert {rows[i]["member"] for i in group["ids"]} == {member}
    np.testing.assert_allclose(scores, group["scores"], rtol=1e-6)
    every = sorted(
      float(r["loss"]) for r in rows.values() if r["member"] == member
    )
    surest = name in ("members_found", "non_members_flagged")
    extreme = every[-1] if surest else every[0]
    assert scores[0] == pytest.approx(extreme)
  with np.load(root / "membership" / "gallery.npz") as gallery:
    ids = gallery["members_missed_ids"]
    np.testing.assert_array_equal(
      gallery["members_missed_images"], dataset.take(ids)
    )


def test_generated_images_and_extraction_are_joined(root, prepared):
  """A bank of members' copies: called members; found ones score high."""
  dataset, split = diffmem.data.read(root / "data")
  made = dataset.take(split.members[:24])
  (root / "sample").mkdir()
  bank = store.create(
    root / "sample" / "images", shape=made.shape, dtype="uint8", chunk=8
  )
  for i in range(3):
    bank.write(i, made[8 * i : 8 * i + 8])
  meta = {"status": "finished", "config": {}, "inputs": {}}
  workdir.write_json(root / "sample" / "meta.json", meta)
  (root / "extraction").mkdir()
  workdir.write_json(root / "extraction" / "meta.json", meta)
  lines = [f"{i},0,0.01" for i in split.members[:5]]
  text = "training_id,generation_id,distance\n" + "\n".join(lines) + "\n"
  (root / "extraction" / "matches.csv").write_text(text)
  got = results_of(root, generated=20)
  control = got["_controls"]["generated"]["loss"]
  assert control["images"] == 20
  assert control["auc_against_non_members"][0] > 0.99
  assert control["called_members"] is None  # 10 images set no threshold
  joined = got["_joined"]["loss"]
  assert (joined["extracted"], joined["members"]) == (5, 60)
  assert 0 < joined["auc"][0] < 1
  # Other generations are scored anew, the rest is kept.
  meta["config"] = {"seed": 1}
  workdir.write_json(root / "sample" / "meta.json", meta)
  again = results_of(root, generated=24)
  assert again["_controls"]["generated"]["loss"]["images"] == 24


def test_other_statistics_do_not_run_the_model_again(root, monkeypatch):
  first = go(root)
  monkeypatch.setattr(signals, "_blocks", lambda *a: pytest.fail("ran again"))
  assert go(root) == first
  second = go(root, bootstrap=60, headline_t=10)
  assert second["t"] == 10
  meta = workdir.require(root, "membership")
  assert meta["config"]["membership"]["bootstrap"] == 60


OTHER = {"draws": 3, "augment": ("identity",), "over": "mean"}
LESS = {"augment": ("identity",), "over": "mean"}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"loss": OTHER}, "computed with draws = 2, this run has 3.*delete"),
    ({"t": (10, 50, 100)}, r"computed with t = \[10, 100\]"),
    ({"t": (10, 10)}, "give one or more distinct times"),
    ({"headline_t": 30}, r"headline_t = 30 is not in membership.t = \(10, 100"),
    ({"attacks": ("los",)}, "unknown attack 'los'"),
    ({"attacks": ()}, "attacks is empty"),
    ({"attacks": ("loss", "loss")}, "names one twice"),
    ({"loss": LESS}, "membership.loss lacks draws: expected augment, draws"),
    ({"loss": {**OTHER, "drwas": 1}}, "membership.loss has the unknown drwas"),
    ({"bootstrap": 0}, "bootstrap = 0"),
    ({"headline_t": None, "choose": 0.0}, "choose = 0.0: .*headline_t"),
    ({"headline_t": None, "choose": 1.5}, "choose = 1.5: expected"),
    ({"criterion": "best"}, "criterion = 'best': expected one of"),
    (
      {"headline_t": None, "criterion": "tpr@0.01"},
      "cannot be told from the 15 non-members that choose",
    ),
    ({"shadow_attacks": {"lira": LIRA}}, "need shadow models, the split has"),
    ({"shadow_attacks": {"a": {"kind": "x"}}}, "a.kind = 'x': choose one of"),
    ({"shadow_attacks": {"loss": LIRA}}, "'loss', which is also an attack"),
    (
      {"shadow_attacks": {"lira": {**LIRA, "draws": 3}}},
      "lira.draws = 3: the losses have 2",
    ),
    (
      {"shadow_attacks": {"lira": {**LIRA, "augment": ("flip",)}}},
      "lira.augment = .*the losses have",
    ),
    (
      {"shadow_attacks": {"lira": {**LIRA, "gamma": 1}}},
      "lira has the unknown gamma",
    ),
  ],
)
def test_refused_before_the_model_is_loaded(
  finished, monkeypatch, change, message
):
  before = workdir.require(finished, "membership")
  monkeypatch.setattr(trained, "load", lambda root: pytest.fail("loaded"))
  with pytest.raises(ValueError, match=message):
    go(finished, **change)
  assert workdir.require(finished, "membership") == before


def test_other_weights_are_refused(root):
  go(root)
  meta = json.loads((root / "train" / "meta.json").read_text())
  (root / "train").unlink()
  (root / "train").mkdir()
  meta["weights"] = "other"
  workdir.write_json(root / "train" / "meta.json", meta)
  with pytest.raises(ValueError, match="computed with weights = 'abc None'"):
    go(root)


def test_no_training_yet(tmp_path):
  with pytest.raises(FileNotFoundError, match="run diffmem-train"):
    go(tmp_path)


def test_a_split_of_one_class(root):
  (root / "data").unlink()
  (root / "train").unlink()
  few = {"members": 9, "held_out": 0, "calibration": 0, "planted": ()}
  pretend(root, SPLIT | few)
  with pytest.raises(ValueError, match="0 held_out images"):
    go(root)


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
  """Six shadows, in pairs, and a model of its own; all of them oracles."""
  root = tmp_path_factory.mktemp("shadows")
  split = SPLIT | {"shadows": 6}
  for shadow in (None, *range(6)):
    pretend(root, split | {"shadow": shadow})
  return root


@pytest.fixture
def shadows(paired, monkeypatch):
  monkeypatch.setattr(trained, "load", oracle)
  return paired


ATTACKS = {
  "lira": LIRA,
  "lira_offline": {**LIRA, "variant": "offline"},
  "threshold": {"kind": "loss", "draws": 2, "augment": ("identity",)},
}


def test_a_model_and_its_shadows(shadows):
  got = results_of(shadows, shadow_attacks=ATTACKS, headline_t=None)
  assert got["loss"]["kind"] == "model"
  assert (got["loss"]["models"], got["loss"]["members"]) == (1, 37)
  for name in ATTACKS:
    one = got[name]
    assert (one["kind"], one["models"], one["images"]) == ("shadow", 6, 79)
    assert one["members"] == one["non_members"] == 237
    assert one["auc"][0] > 0.95, name
    assert one["main"]["members"] == 37
    assert list(one["main"]["by_copies"]) == ["20", "5"]
    assert "scores" not in one["main"]
    assert [entry["draws"] for entry in one["by_draws"]] == [1, 2]
    assert one["by_draws"][-1]["auc"] == one["auc"]
    assert got["_controls"]["random"][name]["passes"]
  rows = table(shadows)
  assert list(rows[0])[4:] == ["loss", *ATTACKS]
  lira = np.array([float(row["lira"]) for row in rows])
  copies = np.array([int(row["copies"]) for row in rows])
  used = np.array([row["used"] == "report" for row in rows])
  assert got["lira"]["main"]["auc"][0] == pytest.approx(
    stats.auc(lira[(copies == 1) & used], lira[(copies == 0) & used])
  )
  file = shadows / "membership" / "shadow_scores.npz"
  with np.load(file) as matrices:
    inside, scores = matrices["_inside"], matrices["lira"]
    keep = ~matrices["_choose"]
  assert scores.shape == inside.shape == (6, 110)
  np.testing.assert_allclose(
    got["lira"]["auc"][0],
    stats.auc(
      scores[:, keep][inside[:, keep]], scores[:, keep][~inside[:, keep]]
    ),
  )


def test_a_shadow_is_missing_or_of_another_split(shadows, tmp_path):
  for name in ("data", "train"):
    (tmp_path / name).symlink_to(shadows / name)
  (tmp_path / "shadows").mkdir()
  for i in range(5):
    (tmp_path / "shadows" / str(i)).symlink_to(shadows / "shadows" / str(i))
  with pytest.raises(FileNotFoundError, match="shadow 5 of 6 is not trained"):
    go(tmp_path, shadow_attacks=ATTACKS)
  (tmp_path / "shadows" / "5").symlink_to(shadows / "shadows" / "4")
  with pytest.raises(ValueError, match="shadow_5 was trained on another split"):
    go(tmp_path, shadow_attacks=ATTACKS)
  assert go(tmp_path)["models"] == 1  # without these attacks none is needed


def test_too_few_shadows_are_refused_before_the_models_are_run(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(trained, "load", lambda root: pytest.fail("loaded"))
  split = SPLIT | {"shadows": 4}
  for shadow in (None, 0, 1, 2, 3):
    pretend(tmp_path, split | {"shadow": shadow})
  message = "shadow_attacks.lira: every image is OUT a single shadow model"
  with pytest.raises(ValueError, match=message):
    go(tmp_path, shadow_attacks=ATTACKS)
  assert not (tmp_path / "membership").exists()


def test_shadows_alone_are_targets_of_every_attack(shadows, tmp_path):
  split = SPLIT | {"members": 0, "held_out": 80, "shadows": 6, "planted": ()}
  for i in range(6):
    pretend(tmp_path, split | {"shadow": i})
  diffmem.data.prepare(tmp_path / "data", seed=0, **DATA, split=split)
  got = results_of(
    tmp_path, shadow_attacks=ATTACKS, attacks=("loss", "sima"), headline_t=None
  )
  loss = got["loss"]
  assert (loss["models"], loss["members"], loss["non_members"]) == (6, 168, 168)
  assert loss["chosen"]["on"] == {"members": 72, "non_members": 72}
  assert loss["auc"] == got["threshold"]["auc"]  # the same, by another way
  assert "main" not in got["lira"]
  assert got["_joined"]["skipped"] == "there is no model but the shadows"
  assert got["_controls"]["non_members"]["loss"]["images"] == [56, 10]
  assert got["_controls"]["blind"]["images"] == 80
  rows = table(tmp_path)
  assert len(rows) == 80
  assert list(rows[0])[:4] == ["id", "used", "loss_in", "loss_out"]
  assert all(float(r["loss_in"]) > float(r["loss_out"]) for r in rows)

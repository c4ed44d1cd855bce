# SPDX-License-Identifier: Apache-2.0
"""Detectors of prompts as a part of the membership stage."""

import csv
import dataclasses

import numpy as np
import pytest

import diffmem.data
from diffmem import arrays, membership, workdir
from diffmem.data import captions
from diffmem.denoiser import captioned_set, finite_set, trained
from diffmem.diffusion import schedules
from diffmem.membership import captioned, choosing, prompt_stage, scene, signals

SCHEDULE = schedules.linear()
SECTION = {
  "ordinary": 10,
  "unseen": 10,
  "detectors": {
    "magnitude": dict(steps=50, followed=2, draws=2, guidance=1.0, clip=True),
    "edges": dict(draws=1, guidance=1.0, threshold=1.5, side=None),
  },
}
OPTIONS = dict(batch=16, bootstrap=50, seed=3, progress=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """12 captions of ten images each, two with one that was planted."""
  root = tmp_path_factory.mktemp("captioned")
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (120, 4, 4, 1), np.uint8)
  texts = np.array([f"scene number {i % 12}" for i in range(120)])
  np.savez(root / "source.npz", images=images, captions=texts)
  config = {
    "source": f"npz:{root / 'source.npz'}",
    "crop": "none",
    "resize": None,
    "filter": "lanczos",
    "data_dir": None,
    "split": {
      "name": "random",
      "members": 60,
      "held_out": 60,
      "calibration": 0,
      "planted": ((20, 2),),
      "shadows": 0,
      "shadow": None,
      "path": None,
    },
  }
  dataset, split = diffmem.data.prepare(root / "data", seed=0, **config)
  captions.prepare(
    root,
    dataset,
    encoder="hashed",
    path=None,
    length=4,
    features=8,
    cut=False,
    progress=False,
  )
  inputs = {"dataset": dataset.info["sha256"], "split": split.digest}
  made = {"seed": 0, "data": config}
  with workdir.stage(root, "train", config=made, inputs=inputs) as stage:
    stage.record("weights", "abc")
  return root


@pytest.fixture(scope="module")
def here(root):
  return scene.build(root, share=0.0, seed=3, with_shadows=False)


@pytest.fixture(scope="module")
def model(root, here):
  """The best denoiser of what was trained on, copies and captions included."""
  rows = np.repeat(here.dataset.rows(here.split.members), here.split.copies)
  known = captions.read(root, here.dataset)
  used, ids = np.unique(known.ids[rows], return_inverse=True)
  images = np.asarray(arrays.from_uint8(here.dataset.images[rows]))
  return captioned_set(images, ids, known.cond(used), SCHEDULE)


def run(root, here, model, monkeypatch, **change):
  monkeypatch.setattr(trained, "load", lambda root: model)
  return prompt_stage.run(root, here, SECTION | change, **OPTIONS)


def table(root):
  with open(root / "membership" / "prompts.csv") as file:
    return list(csv.DictReader(file))


def test_planted_captions_are_found(root, here, model, monkeypatch):
  found = run(root, here, model, monkeypatch)
  assert found["prompts"] == {"planted": 2, "ordinary": 10, "unseen": 0}
  numbers = found["detectors"]["magnitude"]
  assert numbers["auc"][0] > 0.8
  assert numbers["tpr@0.01"] is None  # of ten ordinary captions
  assert (numbers["queries"], numbers["options"]["draws"]) == (8, 2)
  assert numbers["ordinary_against_unseen"] is None
  fewer = [(x["steps"], x["draws"]) for x in numbers["exploratory"]]
  assert fewer == [(1, 1), (1, 2), (2, 1), (2, 2)]
  assert numbers["exploratory"][-1]["auc"] == numbers["auc"]
  rows = table(root)
  assert list(rows[0])[:4] == ["caption_id", "caption", "kind", "copies"]
  assert [row["kind"] for row in rows[:6]].count("planted") == 2
  scores = [float(row["magnitude"]) for row in rows]
  assert scores == sorted(scores, reverse=True)
  known = captions.read(root, here.dataset)
  some = [row for row in rows if row["kind"] == "ordinary"][:3]
  alone = membership.prompt_score(
    "magnitude",
    model,
    known.cond(known.find([row["caption"] for row in some])),
    seed=3,
    **SECTION["detectors"]["magnitude"],
  )
  np.testing.assert_allclose(
    alone, [float(row["magnitude"]) for row in some], rtol=1e-4
  )


def test_kinds_of_captions(here):
  """By the images of each that were trained on, and how often."""
  ids = here.ids[[0, 1, 2, 3]]
  copies = np.array([0, 1, 9, 1])
  none = np.zeros(4, bool)
  parts = choosing.Parts(copies, none, none, none)
  small = dataclasses.replace(here, ids=ids, parts=parts)
  of_row = np.full(len(here.dataset), 4)
  of_row[here.dataset.rows(ids)] = [0, 1, 2, 2]
  known = captions.Captions(
    tuple("abcde"), of_row, np.zeros((5, 1, 1)), np.ones((5, 1), bool), {}
  )
  most, groups = prompt_stage._groups(small, known, SECTION, 0)
  assert most.tolist() == [0, 1, 9, 0, 0]
  assert {kind: rows.tolist() for kind, rows in groups.items()} == {
    "planted": [2],
    "ordinary": [1],
    "unseen": [0],
  }


def test_what_is_there_is_not_computed_again(root, here, model, monkeypatch):
  first = run(root, here, model, monkeypatch)

  def never(*args, **options):
    raise AssertionError("it was computed again")

  broken = dataclasses.replace(model, apply=never, eps=None)
  assert run(root, here, broken, monkeypatch) == first


def test_what_cannot_be_scored_says_why(root, here, model, monkeypatch):
  plain = finite_set(np.zeros((2, 4, 4, 1), np.float32), SCHEDULE)
  assert run(root, here, plain, monkeypatch) == {
    "missing": "the model takes no captions"
  }
  alone = dataclasses.replace(here, main=None)
  assert "but the shadows" in run(root, alone, model, monkeypatch)["missing"]
  assert prompt_stage.run(root, here, None, **OPTIONS) is None


def test_images_are_scored_with_their_captions(root, here, model):
  cond = captioned.of_images(root, here.dataset, model, here.ids)
  assert cond["tokens"].shape == (120, 4, 8)
  text = here.dataset.captions[here.dataset.rows(here.ids[:1])[0]]
  known = captions.read(root, here.dataset)
  np.testing.assert_array_equal(
    cond["tokens"][0], known.cond(known.find([text]))["tokens"][0]
  )
  options: dict = dict(t=(300,), cond=cond, progress=False)
  few = signals.compute(
    model,
    here.dataset.take(here.ids),
    membership.ATTACKS["loss"].signal,
    **options,
    draws=1,
    seed=0,
    augment=("identity",),
  )
  inside = here.parts.copies > 0
  assert few[inside].mean() < few[~inside].mean()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(ordinary=0), "ordinary = 0, expected at least 1"),
    (dict(detectors={}), "detectors is empty: name one of magnitude"),
    (dict(detectors={"wen": {}}), "unknown detector 'wen'"),
    (dict(detectors={"edges": {"draws": 1}}), "edges has the keys draws: exp"),
    (dict(more=1), "membership.prompts has the keys detectors, more"),
  ],
)
def test_what_cannot_be_is_named(change, message):
  prompt_stage.check(SECTION)
  with pytest.raises(ValueError, match=message):
    prompt_stage.check(SECTION | change)

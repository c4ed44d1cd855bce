# SPDX-License-Identifier: Apache-2.0
"""Prompts whose truth is known: captions of a set that the oracle remembers."""

import numpy as np
import pytest

from diffmem import arrays, data, workdir
from diffmem.data import captions
from diffmem.denoiser import captioned_set
from diffmem.diffusion import schedules
from diffmem.extraction import prompts_captions, prompts_run
from diffmem.sample import choosing, generators

CONFIG = dict(
  minimum=10,
  patch=None,
  edge=0.05,
  edge_rate=0.001,
  flag_rate=0.001,
  unsuspected=None,
  controls=20,
  flat=0.02,
  limit=4096,
  budget=100_000,
  delta=0.05,
  duplicates_delta=0.05,
  gallery=5,
)
CHOOSE = dict(
  table=None,
  duplicated=5,
  outliers=4,
  ordinary=6,
  delta=0.05,
  neighbours=50,
  features=None,
)
PLANTED, EACH = 4, 24


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Sixteen captions of twenty images each, four of which stand 400 times."""
  root = tmp_path_factory.mktemp("run")
  dataset, split = data.prepare(
    root / "data",
    seed=0,
    source="scenes:16x20",
    crop="none",
    resize=None,
    filter="lanczos",
    data_dir=None,
    split=dict(
      name="random",
      members=320,
      held_out=0,
      calibration=0,
      planted=((400, PLANTED),),
      shadows=0,
      path=None,
    ),
  )
  settings = dict(encoder="hashed", path=None, length=19, features=8, cut=False)
  texts = captions.prepare(root, dataset, progress=False, **settings)
  rows = dataset.rows(split.training_rows)
  oracle = captioned_set(
    arrays.from_uint8(dataset.images[rows]),
    texts.ids[rows],
    texts.cond(np.arange(len(texts))),
    schedules.linear(1000),
  )
  chosen = choosing.run(root, seed=0, choose=CHOOSE, progress=False)
  prompts = [row.caption for row in chosen]
  generators.run_denoiser(
    root,
    oracle,
    conditions=texts.cond(texts.find(prompts)),
    prompts=prompts,
    per_prompt=EACH,
    steps=20,
    batch=128,
    progress=False,
  )
  prompts_run.run(root, seed=0, prompts=CONFIG, progress=False)
  results = workdir.read_json(root / "prompts" / "results.json")
  return root, dataset, split, chosen, results


def test_the_planted_captions_are_all_that_is_found(run):
  """Recall 1 and precision 1 on the closed form, without a training image."""
  _, dataset, split, _, results = run
  planted = {
    dataset.captions[i] for i in dataset.rows(split.members[split.copies > 1])
  }
  found = results["captions"]
  assert found["tested"] == found["captions"] == results["prompts"] == 15
  total = len(planted)
  truth = found["planted"]
  assert truth["flagged"][:2] == [total, total]
  assert truth["precision"][:2] == [total, total]
  assert truth["ordinary_flagged"][:2] == [0, 15 - total]
  assert truth["precision_at_recall"] == {"0.5": 1, "0.8": 1, "1": 1}
  assert truth["curve"]["precision"] == [1] * total
  assert truth["curve"]["recall"][-1] == 1
  assert truth["auc"][0] == 1
  assert found["by_copies"] == {"400": [total, total], "1": [0, 15 - total]}
  assert found["found"] == {"repeated": total, "once": 0, "collapsed": 0}
  assert found["images"] == [20, 20, 20]


def test_kinds_are_those_that_were_chosen(run):
  *_, chosen, results = run
  kinds = results["captions"]["kinds"]
  total = results["captions"]["planted"]["flagged"][0]
  assert [row.count for row in chosen[:total]] >= [400] * total
  assert {kind: row["prompts"] for kind, row in kinds.items()} == {
    "duplicated": 5,
    "outliers": 4,
    "ordinary": 6,
  }
  assert kinds["duplicated"]["flagged"][:2] == [total, 5]
  assert kinds["duplicated"]["correct"][:2] == [total, 5]
  for kind in ("outliers", "ordinary"):
    assert kinds[kind]["flagged"][0] == kinds[kind]["correct"][0] == 0
    assert kinds[kind]["extractable"] is None  # distances were not searched


def test_without_captions_there_is_no_such_truth(run):
  """Prompts of another data set are nobody's captions."""
  _, dataset, split, _, _ = run
  images, copies = prompts_captions.of_captions(["a cat"], dataset, split)
  assert images.tolist() == copies.tolist() == [0]
  text = dataset.captions[0]
  images, copies = prompts_captions.of_captions(["x", text], dataset, split)
  assert images.tolist() == [0, 20]


def test_the_edge_is_calibrated_on_ordinary_prompts(run, tmp_path):
  """Their file lies in the workdir; half of them calibrate, half are told."""
  root, *_ = run
  for name in ("sample", "data", "choose"):
    (tmp_path / name).symlink_to(root / name)
  options = dict(edge=None, unsuspected="choose/ordinary.txt", flag_rate=0.05)
  prompts_run.run(tmp_path, seed=0, prompts=CONFIG | options, progress=False)
  results = workdir.read_json(tmp_path / "prompts" / "results.json")
  assert results["edge"]["method"] == "unsuspected"
  assert results["control"]["unsuspected"]["groups"] == 3
  truth = results["captions"]["planted"]
  assert truth["flagged"][0] == truth["flagged"][1]
  assert truth["precision_at_recall"]["1"] == 1


def test_another_table_of_prompts_is_asked_again(run, tmp_path):
  """A twin takes the prompts of the first run, in their order and kind."""
  root, _, _, chosen, _ = run
  (tmp_path / "data").mkdir()
  for name in ("meta.json", "split.npz"):
    content = (root / "data" / name).read_bytes()
    (tmp_path / "data" / name).write_bytes(content)
  table = str(root / "choose" / choosing.FILE)
  again = choosing.run(
    tmp_path, seed=1, choose=CHOOSE | {"table": table}, progress=False
  )
  assert [(r.caption, r.kind) for r in again] == [
    (r.caption, r.kind) for r in chosen
  ]

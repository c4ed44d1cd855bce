# SPDX-License-Identifier: Apache-2.0
"""Attacks on the base of a cascade: smaller images, told by their captions."""

import copy

import numpy as np
import pytest

import diffmem
from diffmem import arrays, workdir
from diffmem.data import captions, reduced
from diffmem.denoiser import Denoiser, trained
from diffmem.denoiser.captioned import captioned_set
from diffmem.diffusion import schedules
from diffmem.membership import captioned, run
from tests import tiny_cascade
from tests.membership.run_test import CONFIG

SCHEDULE = schedules.linear()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """(root, dataset, split, captions) of what a training of a base leaves."""
  root = tmp_path_factory.mktemp("base")
  config = tiny_cascade.config(data__upsampler=None)["data"]
  given = {k: v for k, v in config.items() if k != "upsampler"}
  dataset, split = diffmem.data.prepare(root / "data", seed=0, **given)
  embedded = captions.prepare(
    root, dataset, progress=False, **config["captions"]
  )
  inputs = {"dataset": dataset.info["sha256"], "split": split.digest}
  with workdir.stage(
    root, "train", config={"seed": 0, "data": config}, inputs=inputs
  ) as stage:
    stage.record("weights", "abc")
    stage.record("shape", (8, 8, 1))
  return root, dataset, split, embedded


def oracle(prepared):
  """The optimal denoiser of the members at half size, by caption."""
  _, dataset, split, embedded = prepared
  rows = dataset.rows(split.members)
  small = reduced.to_height(dataset.images[rows], 8)
  used, ids = np.unique(embedded.ids[rows], return_inverse=True)
  images = np.asarray(arrays.from_uint8(small))
  return captioned_set(images, ids, embedded.cond(used), SCHEDULE)


def test_a_base_is_attacked_at_its_own_size(prepared, monkeypatch):
  root = prepared[0]
  denoiser = oracle(prepared)
  monkeypatch.setattr(trained, "load", lambda root: denoiser)
  config = copy.deepcopy(CONFIG) | {"t": (10,), "headline_t": 10}
  config["controls"] |= {"permutations": 2, "draws": 2}
  run.run(root, seed=0, membership=config, progress=False)
  found = workdir.read_json(root / "membership" / "results.json")
  assert found["loss"]["auc"][0] == 1.0


def test_captions_and_small_images_are_told(prepared):
  root, dataset, _, embedded = prepared
  ids = dataset.ids[[3, 9]]
  want = embedded.cond(embedded.ids[[3, 9]])
  told = captioned.of_images(root, dataset, oracle(prepared), ids)
  for name, value in want.items():
    np.testing.assert_array_equal(told[name], value)
  own = root / "upsamplers" / "0"
  inside = captioned.of_images(own, dataset, oracle(prepared), ids)
  np.testing.assert_array_equal(inside["tokens"], want["tokens"])
  stage = Denoiser(
    eps=lambda x, t, cond: x, schedule=SCHEDULE, shape=(16, 16, 1),
    low=(8, 8, 1),
  )  # fmt: skip
  told = captioned.of_images(root, dataset, stage, ids)
  small = reduced.to_height(dataset.images[[3, 9]], 8)
  np.testing.assert_allclose(told["low"], small / 127.5 - 1, atol=0.004)
  np.testing.assert_array_equal(told["level"], [0, 0])

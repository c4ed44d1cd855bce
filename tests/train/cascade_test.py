# SPDX-License-Identifier: Apache-2.0
"""A cascade with captions, trained stage by stage and sampled into a bank."""

import json
import shutil

import jax
import numpy as np
import pytest

import diffmem
from diffmem import arrays, audit, workdir
from diffmem.data import captions, reduced
from diffmem.denoiser import trained
from diffmem.sample import run as sampling
from diffmem.sample import upsampling
from diffmem.train import run as fit
from diffmem.train import stages
from tests import tiny_cascade

pytestmark = pytest.mark.slow  # what it compiles takes half a minute

SAMPLE = tiny_cascade.SAMPLE


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A workdir with a base, its upsampler, and a bank of 3 prompts x 3."""
  root = tmp_path_factory.mktemp("cascade")
  audit.fit_model(root, **tiny_cascade.config(), sample=SAMPLE, progress=False)
  sampling.run(root, seed=0, sample=prompted(root), progress=False)
  return root


def prompted(root, **over):
  dataset, _ = diffmem.data.read(root / "data")
  return SAMPLE | {"prompts": captions.read(root, dataset).texts[:3]} | over


def copied(root, tmp_path):
  """The same workdir without its bank."""
  new = tmp_path / "copy"
  shutil.copytree(root, new, ignore=shutil.ignore_patterns("sample"))
  return new


def test_each_stage_has_a_workdir(root):
  base = workdir.require(root, "train")
  stage = workdir.require(root / "upsamplers" / "0", "train")
  assert (base["shape"], stage["shape"]) == ([8, 8, 1], [16, 16, 1])
  assert stage["config"]["models"]["low"] == 8
  assert stage["config"]["augmentation"] == [0, 20]
  assert stage["config"]["diffusion"]["prediction"] == "eps"
  assert "augmentation" not in base["config"]
  assert base["inputs"]["captions"] == stage["inputs"]["captions"]
  assert base["weights"] != stage["weights"]
  for folder, steps in ((root, 2), (root / "upsamplers" / "0", 2)):
    lines = (folder / "train" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == steps
  assert list((root / "train" / "previews").glob("*.png"))
  assert list((root / "upsamplers" / "0" / "train" / "previews").iterdir())


def test_denoisers_take_what_they_were_trained_with(root):
  base = trained.load(root)
  assert base.low is None
  assert base.null_cond["tokens"].shape == (19, 16)
  stage = trained.load(root / "upsamplers" / "0")
  assert (stage.low, stage.prediction) == ((8, 8, 1), "eps")
  dataset, _ = diffmem.data.read(root / "data")
  embedded = captions.read(root, dataset)
  cond = embedded.cond(embedded.ids[:2])
  small = reduced.to_height(dataset.images[:2], 8)
  t = np.array([3, 30], np.int32)
  eps = jax.jit(base.eps)(arrays.from_uint8(small), t, cond)
  assert eps.shape == (2, 8, 8, 1)
  low = {"low": np.asarray(arrays.from_uint8(small)), "level": t}
  x = arrays.from_uint8(dataset.images[:2])
  eps = jax.jit(stage.eps)(x, t, {**cond, **low})
  assert eps.shape == (2, 16, 16, 1)


def test_the_bank_is_grouped_by_prompt(root):
  bank = diffmem.open_bank(root)
  assert bank.shape == (9, 16, 16, 1)
  assert bank.prompts == prompted(root)["prompts"]
  np.testing.assert_array_equal(bank.prompt_ids, np.repeat([0, 1, 2], 3))
  assert len(np.unique(bank[:].reshape(9, -1), axis=0)) == 9
  (about,) = bank.meta["upsamplers"]
  assert about["same_split"]
  assert about["weights"] == bank.meta["inputs"]["upsamplers"][0]


def test_a_stopped_bank_goes_on_and_a_shared_stage_is_the_same(root, tmp_path):
  new = copied(root, tmp_path)
  shutil.rmtree(new / "upsamplers")
  shared = dict(SAMPLE["upsamplers"][0], path=str(root / "upsamplers" / "0"))
  sample = prompted(root, upsamplers=(shared,))
  sampling.run(new, seed=0, sample=sample, progress=False)
  whole = diffmem.open_bank(root)[:]
  np.testing.assert_array_equal(diffmem.open_bank(new)[:], whole)
  images = new / "sample" / "images"
  meta = workdir.read_json(new / "sample" / "meta.json")
  workdir.write_json(new / "sample" / "meta.json", meta | {"status": "started"})
  (images / "c" / "1" / "0" / "0" / "0").unlink()
  sampling.run(new, seed=0, sample=sample, progress=False)
  np.testing.assert_array_equal(diffmem.open_bank(new)[:], whole)


def test_captions_of_members_take_turns_without_prompts(root, tmp_path):
  new = copied(root, tmp_path)
  sample = SAMPLE | {"n": 8, "per_prompt": None, "upsamplers": (), "steps": 1}
  sampling.run(new, seed=0, sample=sample, progress=False)
  bank = diffmem.open_bank(new)
  assert bank.shape == (8, 8, 8, 1)
  dataset, split = diffmem.data.read(root / "data")
  texts = {dataset.captions[row] for row in dataset.rows(split.members)}
  assert set(bank.prompts) == texts
  np.testing.assert_array_equal(bank.prompt_ids, np.arange(8) % len(texts))


def test_training_goes_on_to_the_same_weights(root, tmp_path):
  class Stop(Exception):
    pass

  def stop(build, folder, conditions):
    assert conditions["low"].shape == (2, 8, 8, 1)

    def draw(step, params):
      raise Stop

    return draw

  new = copied(root, tmp_path)
  shutil.rmtree(new / "upsamplers")
  config = tiny_cascade.config(data__upsampler=0)
  config["upsamplers"][0]["train"]["preview_every"] = 1
  with pytest.raises(Stop):
    fit.run(new, **config, preview=stop, progress=False)
  fit.run(new, **config, progress=False)
  meta = workdir.require(new / "upsamplers" / "0", "train")
  old = workdir.require(root / "upsamplers" / "0", "train")
  assert meta["weights"] == old["weights"]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(data__captions=None), "data.captions=None: say how captions are"),
    (dict(models__text=(19, 8)), r"embedded as \(19, 16\)"),
    (dict(data__source="digits"), "digits has no captions"),
    (dict(data__upsampler=1), "the config has 1 upsamplers, 0 to 0"),
    (dict(data__resize=24), "makes images of side 16, the data have 24"),
  ],
)
def test_training_refuses(tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    fit.run(tmp_path, **tiny_cascade.config(**change), progress=False)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(low=5), "side=16 must be a whole multiple of low=5"),
    (dict(augmentation=(0, 41)), "0 <= first < last <= 40"),
    (dict(nonesuch=1), "has the keys .*nonesuch"),
  ],
)
def test_upsamplers_that_do_not_fit(change, message):
  (stage,) = tiny_cascade.config()["upsamplers"]
  with pytest.raises(ValueError, match=message):
    stages.check((stage | change,), tiny_cascade.CONFIG["diffusion"])
  with pytest.raises(ValueError, match="stage before it makes images of side"):
    stages.check((stage, stage), tiny_cascade.CONFIG["diffusion"])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(prompts=("a b c d e " * 4,)), "1 of 1 captions need more than"),
    (dict(per_prompt=None), "needs prompts and per_prompt, or n alone"),
    (dict(n=4), "needs prompts and per_prompt, or n alone"),
    (dict(per_prompt=0), "per_prompt=0 must be at least 1"),
    (dict(batch=0), "batch=0"),
    (dict(upsamplers=({"path": None},)), "has the keys path; expected"),
  ],
)
def test_sampling_refuses(root, tmp_path, change, message):
  new = copied(root, tmp_path)
  with pytest.raises(ValueError, match=message):
    sampling.run(new, seed=0, sample=prompted(root, **change), progress=False)
  assert not (new / "sample" / "images").exists()


def changed(folder, **change):
  """Rewrites meta.json of a training."""
  file = folder / "train" / "meta.json"
  meta = workdir.read_json(file)
  for key, value in change.items():
    section, name = key.split("__")
    meta[section][name] = value
  workdir.write_json(file, meta)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(inputs__dataset="f" * 64), "trained on other source than the base"),
    (dict(inputs__captions="f" * 64), "trained on other captions than the"),
    (dict(config__models={"low": 4}), "enlarges images of 4x4x1, the stage"),
    (dict(config__models={}), "is a model that enlarges nothing"),
  ],
)
def test_a_stage_of_another_cascade_is_refused(root, tmp_path, change, message):
  new = copied(root, tmp_path)
  changed(new / "upsamplers" / "0", **change)
  with pytest.raises(ValueError, match=message):
    sampling.run(new, seed=0, sample=prompted(root), progress=False)


def test_a_stage_of_another_split_is_told(root, tmp_path):
  new = copied(root, tmp_path)
  changed(new / "upsamplers" / "0", inputs__split="f" * 64)
  base = workdir.require(root, "train")
  (found,) = upsampling.find(new, base, SAMPLE["upsamplers"])
  assert not found.about(base)["same_split"]
  missing = dict(SAMPLE["upsamplers"][0], path=str(tmp_path / "nowhere"))
  with pytest.raises(FileNotFoundError, match="run diffmem-train"):
    upsampling.find(new, base, (missing,))


def test_every_leaf_of_a_batch_has_the_batch_first(root):
  """What the loop shards: eight images, their tokens and masks."""
  seen = []
  original = fit.loop.loop

  def caught(**arguments):
    seen.append(arguments["batch_at"](0))
    return {"ema": arguments["state"]["ema"]}

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fit.loop, "loop", caught)
    fit.run(root / "other", **tiny_cascade.config(), progress=False)
  assert original is fit.loop.loop
  (batch,) = seen
  assert set(batch) == {"image", "tokens", "mask"}
  assert {len(leaf) for leaf in jax.tree.leaves(batch)} == {8}
  assert batch["image"].shape == (8, 8, 8, 1)

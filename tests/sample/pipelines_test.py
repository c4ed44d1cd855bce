# SPDX-License-Identifier: Apache-2.0
"""Banks from outside pipelines; those that need torch are marked so."""

import json
import sys

import numpy as np
import pytest

import diffmem
from diffmem import store, workdir
from diffmem.denoiser import pipeline_files
from diffmem.sample import pipeline_blocks, pipelines, run

SECTION = dict(
  pipeline=None,
  prompts=None,
  per_prompt=3,
  batch=4,
  steps=3,
  guidance=2.0,
  size=None,
  dtype="float32",
  device="cpu",
  options={},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Saved pipelines by name."""
  pytest.importorskip("diffusers", reason="the extra [torch] is not installed")
  from tests import tiny_pipelines

  root = tmp_path_factory.mktemp("pipelines")
  with pipeline_files.quiet():
    tiny_pipelines.unconditional().save_pretrained(root / "ddpm")
    for name, checker in (("sd", False), ("checked", True)):
      pipe = tiny_pipelines.stable_diffusion(root, checker=checker)
      pipe.save_pretrained(root / name)
  return root


def sample(root, *, seed=0, **over):
  run.run(root, seed=seed, sample=SECTION | over, progress=False)
  return diffmem.open_bank(root)


@pytest.fixture(scope="module")
def grouped(folder, tmp_path_factory):
  """(workdir, prompts file, bank of three prompts, one of them empty)."""
  root = tmp_path_factory.mktemp("grouped")
  (root / "p.txt").write_text("ab\n\nzz top\n")
  options = dict(pipeline=str(folder / "sd"), prompts=str(root / "p.txt"))
  return root, options, sample(root, **options)


# Without torch.


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "diffusers", None)
  with pytest.raises(ImportError, match=r'pip install "diffmem\[torch\]"'):
    sample(tmp_path / "w", pipeline=str(tmp_path))
  assert not (tmp_path / "w").exists()


def test_seeds_of_a_bank_are_all_different():
  ids = np.arange(0, 2**32, 2**25 + 1)
  seeds = [pipelines.seed_of(3, int(i)) for i in ids]
  assert len(set(seeds)) == len(ids)
  assert all(0 <= s < 2**32 for s in seeds)
  assert pipelines.seed_of(3, 7) != pipelines.seed_of(4, 7)


@pytest.mark.parametrize(
  ("over", "message"),
  [
    (dict(pipeline=""), "sample.pipeline is missing"),
    (dict(per_prompt=0), "sample.per_prompt=0 must be at least 1"),
    (dict(steps=-1), "sample.steps=-1"),
    (dict(options={"generator": 1}), "sets 'generator', which is diffmem's"),
    (dict(prompts="none.txt"), "prompts none.txt: no such file"),
    (dict(mitigation={"name": "hope"}), "name='hope': choose one of amg"),
    (
      dict(mitigation={"name": "gaussian", "scale": 1.0}, prompts="p.txt"),
      "'gaussian' cannot be had of a pipeline: expected replace, add or rep",
    ),
    (dict(pipeline="/no/such/folder"), "no such folder, and not a name"),
  ],
)
def test_bad_settings_are_refused_before_anything(tmp_path, over, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    sample(tmp_path / "w", **dict(pipeline="owner/name") | over)
  assert not (tmp_path / "w").exists()


class Fake:
  """As a pipeline with a checker that flags odd seeds."""

  scheduler = device = None

  def __init__(self, bad=()):
    self.bad, self.calls = bad, []

  def __call__(
    self, batch_size=1, generator=None, num_inference_steps=1, output_type=""
  ):
    self.calls.append(batch_size)
    seeds = [g.initial_seed() for g in generator]
    images = np.stack([np.full((2, 2, 1), s % 256 / 255) for s in seeds])
    images[[s % 2 == 1 for s in seeds]] = 0
    images[[s in self.bad for s in seeds]] = np.nan
    self.images = images
    self.nsfw_content_detected = [s % 2 == 1 for s in seeds]
    return self


@pytest.mark.torch
def test_words_of_prompts_are_changed_for_each_image(folder):
  """By its id; the bank's prompts stay what they are."""
  heard = []

  class Listens(Fake):
    def __call__(
      self, prompt=None, generator=None, num_inference_steps=1, output_type=""
    ):
      heard.extend(prompt)
      return super().__call__(generator=generator)

  given = pipelines.Settings(
    **SECTION
    | dict(pipeline="x", prompts="p.txt", per_prompt=3, guidance=None),
    mitigation={"name": "add", "count": 1},
  )
  texts = ("a red cat", "two dogs")
  make = pipelines.generator(Listens(), given, texts, 0)
  make(np.arange(6))
  make(np.array([4, 1]))
  known = {"a", "red", "cat", "two", "dogs"}
  for i, text in enumerate(heard[:6]):
    words = text.split()
    assert len(words) == (4 if i < 3 else 3)
    assert set(words) <= known
    assert set(texts[i // 3].split()) <= set(words)
  assert heard[6:] == [heard[4], heard[1]]
  assert len(set(heard[:6])) > 3


@pytest.mark.torch
def test_flags_survive_a_stop(folder, tmp_path):
  given = pipelines.Settings(**SECTION | dict(pipeline="x"))
  pipe = Fake()
  make = pipelines.generator(pipe, given, None, 0)
  whole = pipeline_blocks.fill(
    tmp_path / "a", make, n=10, batch=4, progress=False
  )
  odd = [pipelines.seed_of(0, i) % 2 == 1 for i in range(10)]
  assert whole.tolist() == odd
  assert pipe.calls == [4, 4, 2]

  def stops(ids):
    if ids[0] == 8:
      raise KeyboardInterrupt
    return make(ids)

  with pytest.raises(KeyboardInterrupt):
    pipeline_blocks.fill(tmp_path / "b", stops, n=10, batch=4, progress=False)
  again = pipeline_blocks.fill(
    tmp_path / "b", make, n=10, batch=4, progress=False
  )
  assert again.tolist() == odd
  assert pipe.calls == [4, 4, 2, 4, 4, 2]
  images = [store.open(tmp_path / x / "images")[:] for x in "ab"]
  assert (images[0] == images[1]).all()
  assert not images[0][odd].any()


@pytest.mark.torch
def test_images_that_are_not_finite_are_named(folder):
  given = pipelines.Settings(**SECTION | dict(pipeline="x"))
  pipe = Fake(bad=[pipelines.seed_of(0, 6)])
  make = pipelines.generator(pipe, given, None, 0)
  with pytest.raises(FloatingPointError, match=r"1 images .* has id 6"):
    make(np.arange(4, 8))


# With tiny pipelines.


@pytest.mark.torch
def test_a_bank_knows_its_prompts(grouped):
  root, _, bank = grouped
  assert bank.shape == (9, 8, 8, 3)
  assert bank.dtype == np.uint8
  assert bank.prompts == ("ab", "", "zz top")
  assert bank.prompt_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
  assert len(np.unique(np.asarray(bank).reshape(9, -1), axis=0)) == 9
  meta = workdir.require(root, "sample")
  assert meta["generated"] == 9
  assert meta["truncated"] == 0
  assert "flagged" not in meta
  assert meta["made_by"]["pipeline"] == "StableDiffusionPipeline"


@pytest.mark.torch
def test_an_image_is_what_diffusers_makes_of_its_seed(folder, grouped):
  import torch

  pipe = pipeline_files.load(folder / "sd", dtype="float32", device="cpu")
  made = pipe(
    "zz top",
    num_inference_steps=3,
    guidance_scale=2.0,
    output_type="pil",
    generator=torch.Generator("cpu").manual_seed(pipelines.seed_of(0, 7)),
  ).images[0]
  _, _, bank = grouped
  difference = np.abs(np.asarray(made).astype(int) - bank[7])
  assert difference.max() <= 1


@pytest.mark.torch
def test_block_size_and_number_change_no_image(grouped, tmp_path):
  """Noise is equal; images are, but for the rounding of another shape."""
  _, options, bank = grouped
  for name, over in (
    ("two", dict(batch=2)),
    ("all", dict(batch=64)),
  ):
    other = sample(tmp_path / name, **options, **over)
    assert np.abs(np.asarray(other).astype(int) - np.asarray(bank)).max() <= 1
  again = sample(tmp_path / "same", **options)
  assert (np.asarray(again) == np.asarray(bank)).all()
  seed = sample(tmp_path / "seed", seed=1, **options)
  assert np.abs(np.asarray(seed).astype(int) - np.asarray(bank)).max() > 5


@pytest.mark.torch
def test_a_stopped_bank_is_the_calm_one(grouped, tmp_path, monkeypatch):
  _, options, bank = grouped
  real = pipelines.generator

  def stopping(*args):
    make = real(*args)

    def stops(ids):
      if ids[0] == 4:
        raise KeyboardInterrupt
      return make(ids)

    return stops

  with monkeypatch.context() as m:
    m.setattr(pipelines, "generator", stopping)
    with pytest.raises(KeyboardInterrupt):
      sample(tmp_path, **options)
  with pytest.raises(ValueError, match="1 of 3 chunks"):
    diffmem.open_bank(tmp_path)
  done = tmp_path / "sample" / "images" / "c" / "0" / "0" / "0" / "0"
  before = done.stat().st_mtime_ns
  again = sample(tmp_path, **options)
  assert done.stat().st_mtime_ns == before
  assert (np.asarray(again) == np.asarray(bank)).all()
  # A finished bank is kept, and no pipeline is loaded for it.
  with monkeypatch.context() as m:
    m.setattr(pipeline_files, "load", None)
    assert (np.asarray(sample(tmp_path, **options)) == np.asarray(bank)).all()


@pytest.mark.torch
def test_other_prompts_or_weights_are_refused(folder, grouped, tmp_path):
  root, options, _ = grouped
  texts = (root / "p.txt").read_text()
  try:
    (root / "p.txt").write_text("ab\nc\nzz top\n")
    with pytest.raises(ValueError, match="made with its input 'prompts'"):
      sample(root, **options)
  finally:
    (root / "p.txt").write_text(texts)
  other = copy(folder / "sd", tmp_path / "other")
  config = other / "unet" / "config.json"
  config.write_text(config.read_text() + "\n")
  (tmp_path / "sd").symlink_to(folder / "sd")
  options = options | dict(pipeline=str(tmp_path / "sd"), per_prompt=1)
  sample(tmp_path / "w", **options)
  (tmp_path / "sd").unlink()
  (tmp_path / "sd").symlink_to(other)
  with pytest.raises(ValueError, match="made with its input 'pipeline'"):
    sample(tmp_path / "w", **options)


@pytest.mark.torch
def test_unconditional(folder, tmp_path):
  bank = sample(
    tmp_path, pipeline=str(folder / "ddpm"), per_prompt=5, guidance=None
  )
  assert bank.shape == (5, 8, 8, 1)
  assert bank.prompts is None
  assert len(np.unique(np.asarray(bank).reshape(5, -1), axis=0)) == 5


@pytest.mark.torch
def test_a_replaced_image_is_no_generation(folder, tmp_path, caplog):
  (tmp_path / "p.txt").write_text("ab\ncd\n")
  bank = sample(
    tmp_path,
    pipeline=str(folder / "checked"),
    prompts=str(tmp_path / "p.txt"),
  )
  assert not np.asarray(bank).any()
  assert bank.meta["flagged"] == list(range(6))
  assert bank.prompt_ids.tolist() == [-1] * 6
  assert "replaced 6 of 6 images by black" in caplog.text


@pytest.mark.torch
def test_long_and_repeated_prompts_are_said_once(folder, tmp_path, caplog):
  (tmp_path / "p.txt").write_text("ab\nabcdefghijk\nab\nlongest prompt\n")
  bank = sample(
    tmp_path,
    pipeline=str(folder / "sd"),
    prompts=str(tmp_path / "p.txt"),
    per_prompt=1,
  )
  assert bank.prompts == ("ab", "abcdefghijk", "longest prompt")
  assert "cuts 2 of 3 prompts to 8 tokens, the first is prompt 1" in caplog.text
  assert "1 lines of" in caplog.text
  assert len(caplog.records) == 2
  assert bank.meta["truncated"] == 2
  assert bank.meta["repeated_prompts"] == 1


@pytest.mark.torch
@pytest.mark.parametrize(
  ("name", "over", "message"),
  [
    ("ddpm", dict(prompts=True), "DDPMPipeline takes no prompts"),
    ("sd", dict(), "is not unconditional: give sample.prompts"),
    ("ddpm", dict(size=16), "DDPMPipeline takes no 'height'; it takes"),
    ("ddpm", dict(options={"eta": 1.0}), "takes no 'eta'"),
    ("ddpm", dict(dtype="float64"), "dtype='float64': choose one of float32"),
  ],
)
def test_what_a_pipeline_does_not_take(folder, tmp_path, name, over, message):
  if "prompts" in over:
    (tmp_path / "p.txt").write_text("a\n")
    over = dict(prompts=str(tmp_path / "p.txt"))
  with pytest.raises(ValueError, match=message):
    sample(tmp_path / "w", pipeline=str(folder / name), **over)
  assert not (tmp_path / "w").exists()


@pytest.mark.torch
def test_size_and_options_reach_the_pipeline(folder, tmp_path):
  (tmp_path / "p.txt").write_text("ab\n")
  options = dict(
    pipeline=str(folder / "sd"), prompts=str(tmp_path / "p.txt"), size=16
  )
  plain = sample(tmp_path / "a", **options)
  assert plain.shape == (3, 16, 16, 3)
  other = sample(
    tmp_path / "b", **options, options={"negative_prompt": ["zz"] * 3}, batch=3
  )
  assert (np.asarray(other) != np.asarray(plain)).any()


# Nothing of somebody else's is executed.


def copy(folder, to):
  for file in folder.rglob("*"):
    if file.is_file():
      target = to / file.relative_to(folder)
      target.parent.mkdir(parents=True, exist_ok=True)
      target.write_bytes(file.read_bytes())
  return to


@pytest.mark.torch
def test_pickles_are_never_loaded(folder, tmp_path):
  import torch

  bad = copy(folder / "ddpm", tmp_path / "bad")
  (bad / "unet" / "diffusion_pytorch_model.safetensors").unlink()
  torch.save({}, bad / "unet" / "diffusion_pytorch_model.bin")
  with pytest.raises(ValueError, match=r"model\.bin is a pickle, .* never"):
    sample(tmp_path / "w", pipeline=str(bad))


@pytest.mark.torch
@pytest.mark.parametrize("where", ["unet/mine.py", "pipeline.py"])
def test_code_beside_the_weights_is_refused(folder, tmp_path, where):
  bad = copy(folder / "ddpm", tmp_path / "bad")
  (bad / where).write_text("raise SystemExit('executed')\n")
  with pytest.raises(ValueError, match="brings its own code"):
    sample(tmp_path / "w", pipeline=str(bad))


@pytest.mark.torch
@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"unet": ["antigravity", "UNet2DModel"]}, "of the library 'antigravity'"),
    ({"_class_name": ["mine", "Mine"]}, "brings its own code"),
    ({"_class_name": "NoSuchPipeline"}, "is no pipeline of diffusers"),
    ({"_class_name": "AutoencoderKL"}, "is no pipeline"),
  ],
)
def test_odd_indices_are_refused(folder, tmp_path, change, message):
  bad = copy(folder / "ddpm", tmp_path / "bad")
  index = json.loads((bad / "model_index.json").read_text()) | change
  (bad / "model_index.json").write_text(json.dumps(index))
  with pytest.raises(ValueError, match=message):
    sample(tmp_path / "w", pipeline=str(bad))
  assert "antigravity" not in sys.modules


@pytest.mark.torch
def test_folders_that_are_none(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no model_index\.json"):
    sample(tmp_path / "w", pipeline=str(tmp_path))
  (tmp_path / "model.safetensors").write_bytes(b"")
  with pytest.raises(ValueError, match="is a file: give the folder"):
    sample(tmp_path / "w", pipeline=str(tmp_path / "model.safetensors"))
  bad = copy(folder / "ddpm", tmp_path / "bad")
  (bad / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
  with pytest.raises(ValueError, match="cannot be loaded"):
    sample(tmp_path / "w", pipeline=str(bad))


@pytest.mark.torch
def test_a_name_is_fetched_from_the_hub(folder, tmp_path, monkeypatch):
  import diffusers

  asked = {}

  def download(name, **options):
    asked.update(options, name=name)
    return folder / "ddpm"

  monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
  sample(tmp_path / "w", pipeline="owner/name", per_prompt=1)
  assert asked == dict(
    name="owner/name", use_safetensors=True, trust_remote_code=False
  )
  monkeypatch.setattr(diffusers.DiffusionPipeline, "download", None)
  with pytest.raises(OSError, match="owner/none: no such folder here, and"):
    sample(tmp_path / "v", pipeline="owner/none")

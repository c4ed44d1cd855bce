# SPDX-License-Identifier: Apache-2.0
"""Perturbed and optimized prompts, and the config section."""

import shutil

import jax
import numpy as np
import pytest

import diffmem
import diffmem.data
from diffmem import arrays, keys, workdir
from diffmem.denoiser import (
  Denoiser,
  captioned_set,
  conditions,
  finite_set,
  trained,
)
from diffmem.diffusion import schedules
from diffmem.sample import (
  chain,
  mitigation,
  optimization,
  perturbation,
  run,
)

SCHEDULE = schedules.linear()
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (12, 4, 4, 1)).astype(np.float32)
LENGTHS = np.array([5, 3, 4, 2, 3, 4])
CAPTIONS = {
  "tokens": RNG.normal(size=(6, 6, 3)).astype(np.float32)
  * (np.arange(6)[None] < LENGTHS[:, None])[..., None],
  "mask": np.arange(6)[None] < LENGTHS[:, None],
}
VOCABULARY = RNG.normal(size=(9, 3)).astype(np.float32) + 20
KEY = keys.root(1)


def id_keys(ids):
  return keys.per_id(KEY, np.asarray(ids, np.int32))


def perturbed(kind, ids=range(6), rows=None, **options):
  rows = np.arange(6) if rows is None else rows
  cond = jax.tree.map(lambda leaf: leaf[rows], CAPTIONS)
  made = perturbation.tokens(cond, id_keys(ids), kind=kind, **options)
  return jax.tree.map(np.asarray, made)


def test_gaussian_noise_has_its_scale():
  rows = np.zeros(4000, int)
  got = perturbed("gaussian", range(4000), rows, scale=0.3)
  gap = got["tokens"] - CAPTIONS["tokens"][:1]
  assert (gap[:, 5:] == 0).all()
  rms = np.sqrt((CAPTIONS["tokens"][0, :5] ** 2).mean(-1))
  spread = np.sqrt((gap[:, :5] ** 2).mean((0, 2)))
  np.testing.assert_allclose(spread, 0.3 * rms, rtol=0.05)
  np.testing.assert_array_equal(got["mask"], CAPTIONS["mask"][rows])


def test_tokens_are_replaced():
  got = perturbed("replace", count=1, vocabulary=VOCABULARY)
  other = (got["tokens"] != CAPTIONS["tokens"]).any(-1)
  assert (other.sum(1) == 1).all()
  assert not np.any(other & ~CAPTIONS["mask"])
  known = {tuple(token) for token in VOCABULARY}
  assert {tuple(token) for token in got["tokens"][other]} <= known
  np.testing.assert_array_equal(got["mask"], CAPTIONS["mask"])


@pytest.mark.parametrize("kind", ["add", "repeat"])
def test_tokens_are_put_in_and_the_rest_moves_along(kind):
  vocabulary = VOCABULARY if kind == "add" else None
  got = perturbed(kind, count=1, vocabulary=vocabulary)
  np.testing.assert_array_equal(got["mask"].sum(1), LENGTHS + 1)
  for i, length in enumerate(LENGTHS):
    old = [tuple(x) for x in CAPTIONS["tokens"][i, :length]]
    new = [tuple(x) for x in got["tokens"][i, : length + 1]]
    pool = old if kind == "repeat" else [tuple(x) for x in VOCABULARY]
    assert any(
      new[:p] + new[p + 1 :] == old and new[p] in pool for p in range(len(new))
    )
  full = perturbed(kind, count=5, vocabulary=vocabulary)
  assert full["mask"].all()  # what passes the end is cut


def test_it_is_drawn_for_each_image_by_its_id():
  rows = np.zeros(6, int)
  got = perturbed("gaussian", range(6), rows, scale=1.0)
  again = perturbed("gaussian", [4, 1], [0, 0], scale=1.0)
  np.testing.assert_array_equal(again["tokens"], got["tokens"][[4, 1]])
  assert len(np.unique(got["tokens"][:, 0, 0])) == 6


def test_no_caption_stays_none():
  null = jax.tree.map(lambda leaf: np.zeros_like(leaf[:2]), CAPTIONS)
  got = perturbation.tokens(
    null, id_keys([0, 1]), kind="add", count=2, vocabulary=VOCABULARY
  )
  assert not np.any(got["mask"])
  assert not np.any(got["tokens"])


@pytest.mark.parametrize("kind", ["replace", "add", "repeat"])
def test_words(kind):
  text, pool = "a red cat", ("x", "y")
  options: dict = dict(kind=kind, count=2, vocabulary=pool)
  got = perturbation.words(text, np.random.default_rng(0), **options)
  again = perturbation.words(text, np.random.default_rng(0), **options)
  assert got == again != text
  words = got.split()
  assert len(words) == 3 if kind == "replace" else 5
  assert set(words) <= {*text.split(), *(() if kind == "repeat" else pool)}
  assert perturbation.words("", np.random.default_rng(0), **options) == ""


@pytest.fixture(scope="module")
def model():
  """Caption 0 has one image, the others more; conditions are told softly."""
  ids = np.array([0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
  return captioned_set(IMAGES, ids, CAPTIONS, SCHEDULE, spread=1.0)


def test_optimization_lowers_the_magnitude(model):
  t, rows = 600, np.arange(6)
  x = RNG.normal(size=(6, 4, 4, 1)).astype(np.float32)

  def magnitude(cond):
    gap = model.eps(x, np.full(6, t), cond) - model.eps(x, np.full(6, t), None)
    return np.sqrt((np.asarray(gap) ** 2).sum((1, 2, 3)))

  before = magnitude(CAPTIONS)
  target = float(np.median(before))
  change = optimization.optimizer(model, t=t, steps=8, lr=0.1, target=target)
  after = change(model.params, x, CAPTIONS)
  low = before <= target
  assert (magnitude(after)[~low] < 0.97 * before[~low]).all()
  np.testing.assert_array_equal(
    after["tokens"][low], CAPTIONS["tokens"][rows[low]]
  )
  np.testing.assert_array_equal(after["mask"], CAPTIONS["mask"])


def sections():
  """One of each method, with all of its options."""
  return {
    "amg": dict(
      similarity=1.0,
      despecify=0.0,
      deduplicate=0.0,
      early=1.0,
      late=1.0,
      decay=6.25,
      alpha=0.5,
      neighbours=5,
      through="x0",
    ),
    "gaussian": dict(scale=5.0),
    "replace": dict(count=1),
    "add": dict(count=1),
    "repeat": dict(count=1),
    "optimize": dict(steps=2, lr=3.0, target=0.0),
  }


OPTIONS = dict(stepper="ddim", steps=3, eta=0.0, clip=True)


@pytest.fixture(scope="module")
def plain(model):
  draw = jax.jit(chain.chain(model, guidance=2.0, **OPTIONS))
  ids = np.arange(6, dtype=np.int32)
  return np.asarray(draw(model.params, ids, KEY, CAPTIONS))


@pytest.mark.parametrize("name", mitigation.METHODS)
def test_every_method_is_a_function_of_the_id(model, plain, name):
  section = {"name": name, **sections()[name]}
  made = mitigation.apply(
    section,
    model,
    guidance=2.0,
    steps=OPTIONS["steps"],
    references=IMAGES,
    vocabulary=VOCABULARY,
  )
  draw = jax.jit(
    chain.chain(
      made.denoiser,
      guidance=made.guidance,
      prepare=made.prepare,
      **OPTIONS,
    )
  )
  cond, ids = CAPTIONS, np.arange(6, dtype=np.int32)
  whole = np.asarray(draw(made.denoiser.params, ids, KEY, cond))
  order = np.array([4, 1, 0, 5, 2, 3])
  other = draw(
    made.denoiser.params, ids[order], KEY, conditions.take(cond, order)
  )
  np.testing.assert_allclose(other, whole[order], atol=1e-4)
  assert np.abs(np.asarray(whole) - plain).max() > 1e-3


def test_noise_on_the_prompt_draws_other_images(model):
  """The memorized caption gives its one image; perturbed, others too."""
  strict = captioned_set(
    IMAGES, np.array([0] + [1] * 3 + [2, 2, 3, 3, 4, 4, 5, 5]), CAPTIONS,
    SCHEDULE, spread=0.3,
  )  # fmt: skip
  cond = jax.tree.map(lambda leaf: np.repeat(leaf[:1], 64, 0), CAPTIONS)
  ids, shares = np.arange(64, dtype=np.int32), []
  for section in (None, {"name": "gaussian", "scale": 3.0}):
    made = mitigation.apply(section, strict, guidance=1.0, steps=10)
    draw = chain.chain(
      made.denoiser,
      stepper="ddim",
      steps=10,
      eta=0.0,
      guidance=1.0,
      clip=True,
      prepare=made.prepare,
    )
    x = np.asarray(jax.jit(draw)(strict.params, ids, KEY, cond))
    shares.append((np.abs(x - IMAGES[:1]).max((1, 2, 3)) < 0.05).mean())
  assert shares[0] == 1.0
  assert shares[1] < 0.9


@pytest.mark.parametrize(
  ("section", "message"),
  [
    ({"name": "hope"}, "name='hope': choose one of amg, gaussian"),
    ({"name": "gaussian"}, "'gaussian' lacks scale: expected scale"),
    ({"name": "add", "count": 1, "a": 2}, "'add' has the unknown a"),
    ({"name": "add", "count": -1}, "'add' needs count, 0 or more, got -1"),
    ({"name": "amg", **sections()["amg"], "alpha": 0.0}, r"alpha=0.0"),
  ],
)
def test_what_cannot_be_is_named(model, section, message):
  with pytest.raises(ValueError, match=message):
    mitigation.apply(section, model, guidance=1.0, steps=5)


def test_what_a_method_needs_is_asked_for(model):
  amg = {"name": "amg", **sections()["amg"]}
  with pytest.raises(ValueError, match="'amg' needs the training images"):
    mitigation.apply(amg, model, guidance=1.0, steps=5)
  classes = finite_set(IMAGES, SCHEDULE, labels=np.arange(12) % 2)
  made = mitigation.apply(
    {"name": "repeat", "count": 1}, classes, guidance=1.0, steps=5
  )
  with pytest.raises(ValueError, match="a condition of tokens and mask"):
    made.prepare(None, None, np.zeros(2, np.int32), id_keys([0, 1]))
  options = dict(t=5, steps=1, lr=0.1, target=0.0)
  with pytest.raises(ValueError, match="needs embeddings, not class labels"):
    optimization.optimizer(classes, **options)
  host = Denoiser(
    eps=lambda x, t, c: x, schedule=SCHEDULE, shape=(4, 4, 1), traceable=False
  )
  with pytest.raises(ValueError, match="that JAX can trace"):
    optimization.optimizer(host, **options)
  with pytest.raises(ValueError, match="'add' needs a vocabulary"):
    perturbation.tokens(CAPTIONS, id_keys(range(6)), kind="add", count=1)


def test_a_bank_of_a_workdir(tmp_path, monkeypatch):
  """A memorizer of members and others; the members are kept away from."""
  pixels = np.random.default_rng(3).integers(0, 256, (40, 4, 4, 1), np.uint8)
  np.savez(tmp_path / "source.npz", images=pixels)
  split = dict(name="random", members=20, held_out=20, calibration=0)
  split |= dict(planted=(), shadows=0, shadow=None, path=None)
  dataset, drawn = diffmem.data.prepare(
    tmp_path / "data", seed=0, source=f"npz:{tmp_path / 'source.npz'}",
    crop="none", resize=None, filter="lanczos", data_dir=None, split=split,
  )  # fmt: skip
  inputs = {"dataset": dataset.info["sha256"], "split": drawn.digest}
  with workdir.stage(
    tmp_path, "train", config={"models": {}}, inputs=inputs
  ) as stage:
    stage.record("weights", "abc")
    stage.record("shape", [4, 4, 1])
  oracle = finite_set(np.asarray(arrays.from_uint8(pixels)), SCHEDULE)
  monkeypatch.setattr(trained, "load", lambda root: oracle)
  sample = dict(OPTIONS, steps=10, n=64, batch=32, guidance=1.0, backend="jit")
  members, shares = dataset.take(drawn.members).astype(int), []
  amg = {"name": "amg", **sections()["amg"], "similarity": 30.0}
  amg |= {"early": 1.5, "late": 1.5, "neighbours": 10}
  for section in (None, amg):
    shutil.rmtree(tmp_path / "sample", ignore_errors=True)
    run.run(
      tmp_path, seed=0, sample=sample | {"mitigation": section}, progress=False
    )
    made = diffmem.open_bank(tmp_path)
    gap = np.abs(made[:].astype(int)[:, None] - members[None]).max((2, 3, 4))
    shares.append((gap.min(1) < 3).mean())
    assert made.meta["config"]["sample"]["mitigation"] == section
    assert ("split" in made.meta["inputs"]) == (section is not None)
  assert shares[0] > 0.3
  assert shares[1] < shares[0] / 2
  with pytest.raises(ValueError, match="was made with"):
    run.run(
      tmp_path, seed=0, sample=sample | {"mitigation": None}, progress=False
    )

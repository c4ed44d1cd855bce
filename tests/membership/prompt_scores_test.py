# SPDX-License-Identifier: Apache-2.0
"""Detectors of memorized prompts, on models whose truth is known.

In a captioned set a caption of one image is memorized for certain, and one of
five images hardly says which; a Gaussian whose mean follows the caption keeps
no image of anybody.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from sklearn import datasets

from diffmem import arrays, membership, stats, store
from diffmem.denoiser import Denoiser, captioned_set, finite_set, gaussian
from diffmem.diffusion import schedules
from diffmem.membership import magnitude, one_step, prompt_scores, queries

SCHEDULE = schedules.linear()
# Ends at sqrt(ab) = 0.28.
SHORT = schedules.Schedule("short", SCHEDULE.betas[:500])
PLANTED, ORDINARY, EACH = 12, 24, 5
OPTIONS = {
  "magnitude": dict(steps=10, followed=3, draws=2, guidance=3.0),
  "confidence": dict(draws=16, guidance=3.0),
  "edges": dict(draws=4, guidance=1.0, threshold=32.0),
}


def captions(count):
  rng = np.random.default_rng(1)
  return {
    "tokens": rng.normal(size=(count, 6, 8)).astype(np.float32),
    "mask": np.arange(6)[None] < rng.integers(2, 7, count)[:, None],
  }


@pytest.fixture(scope="module")
def digits():
  images = np.round(datasets.load_digits().images * 255 / 16)
  order = np.random.default_rng(0).permutation(len(images))
  return np.asarray(
    arrays.from_uint8(images.astype(np.uint8)[order][..., None])
  )


@pytest.fixture(scope="module")
def models(digits):
  """12 captions of one image each, planted 20 times, and 24 of five each.

  By detector: with 64 pixels one step from noise of 28% image says more.
  """
  ids = np.concatenate(
    [
      np.repeat(np.arange(PLANTED), 20),
      PLANTED + np.repeat(np.arange(ORDINARY), EACH),
    ]
  )
  planted = np.repeat(digits[:PLANTED], 20, axis=0)
  others = digits[PLANTED : PLANTED + ORDINARY * EACH]
  images = np.concatenate([planted, others])
  known = captions(PLANTED + ORDINARY)
  whole = captioned_set(images, ids, known, SCHEDULE)
  short = captioned_set(images, ids, known, SHORT)
  return {"magnitude": whole, "confidence": short, "edges": whole}


@pytest.fixture(scope="module")
def memorized(models):
  return models["confidence"]


@pytest.fixture(scope="module")
def ordinary(digits):
  """A Gaussian whose mean is moved by the caption's first token."""
  flat = digits.reshape(len(digits), -1)
  plain = gaussian(flat.mean(0).reshape(8, 8, 1), np.cov(flat.T), SHORT)
  move = np.random.default_rng(2).normal(size=(8, 64)).astype(np.float32) / 9

  def apply(params, x_t, t, cond=None):
    shift = (cond["tokens"][:, 0] @ move).reshape(x_t.shape)
    a = jnp.sqrt(jnp.asarray(SHORT.alpha_bar, jnp.float32))[t]
    return plain.apply(params, x_t - a[:, None, None, None] * shift, t)

  return Denoiser(
    apply=apply,
    params=plain.params,
    schedule=SHORT,
    shape=(8, 8, 1),
    null_cond={"tokens": np.zeros((6, 8)), "mask": np.zeros(6, bool)},
  )


def test_every_detector_is_tried():
  assert set(OPTIONS) == set(membership.DETECTORS)


@pytest.mark.parametrize("name", membership.DETECTORS)
def test_a_caption_of_one_image_is_told_from_one_of_five(name, models):
  cond = captions(PLANTED + ORDINARY)
  found = membership.prompt_score(name, models[name], cond, **OPTIONS[name])
  assert found.shape == (PLANTED + ORDINARY,)
  assert stats.auc(found[:PLANTED], found[PLANTED:]) > 0.97


@pytest.mark.parametrize("name", membership.DETECTORS)
def test_a_model_that_memorized_none_tells_nothing(name, ordinary):
  found = membership.prompt_score(
    name, ordinary, captions(300), **OPTIONS[name]
  )
  auc, low, high = stats.interval(found[:150], found[150:], seed=0)
  assert low < 0.5 < high
  assert 0.4 < auc < 0.6


@pytest.mark.parametrize("name", membership.DETECTORS)
def test_one_prompt_scores_as_among_others(name, memorized):
  cond = captions(PLANTED + ORDINARY)
  all_of_them = membership.prompt_score(
    name, memorized, cond, batch=8, **OPTIONS[name]
  )
  alone = jax.tree.map(lambda leaf: leaf[3:4], cond)
  np.testing.assert_allclose(
    membership.prompt_score(name, memorized, alone, **OPTIONS[name])[0],
    all_of_them[3],
    rtol=1e-4,
  )


def test_class_labels_are_prompts_too(digits):
  """Class 0 holds one image, the others five each."""
  labels = np.concatenate([[0], np.repeat([1, 2, 3], 5)])
  model = finite_set(digits[:16], SCHEDULE, labels=labels)
  found = membership.prompt_score("magnitude", model, np.arange(4), draws=2)
  assert found.argmax() == 0


def test_the_magnitude_is_taken_along_the_sampler_s_chain(memorized):
  """Against the definition: guided DDIM steps, in NumPy."""
  cond = jax.tree.map(lambda leaf: leaf[:3], captions(PLANTED + ORDINARY))
  options = dict(steps=4, followed=4, draws=1, guidance=3.0, clip=True)
  values = prompt_scores.values(
    membership.DETECTORS["magnitude"], memorized, cond, seed=5, **options
  )
  times = schedules.respace(SHORT.steps, 4)[::-1]
  start = np.asarray(queries.noise(5, int(times[0]), 0, (8, 8, 1)))
  x = np.broadcast_to(start[None], (3, 8, 8, 1))
  for i, t in enumerate(times):
    t = np.full(3, t)
    one, none = memorized.eps(x, t, cond), memorized.eps(x, t, None)
    gap = np.asarray(one - none).reshape(3, -1)
    np.testing.assert_allclose(
      values[:, i, 0],
      np.linalg.norm(gap, axis=1),
      rtol=2e-3,
      atol=2e-5,  # of noise alone both predictions are one
    )
    ab, then = SHORT.alpha_bar[t[0]], 1.0
    if i + 1 < len(times):
      then = SHORT.alpha_bar[times[i + 1]]
    eps = none + 3.0 * (one - none)
    x0 = np.clip((x - np.sqrt(1 - ab) * eps) / np.sqrt(ab), -1, 1)
    eps = (x - np.sqrt(ab) * x0) / np.sqrt(1 - ab)
    x = np.sqrt(then) * x0 + np.sqrt(1 - then) * eps
  fewer = magnitude.by_steps(values)
  assert set(fewer) == {(1, 1), (4, 1)}
  np.testing.assert_allclose(
    fewer[1, 1], values[:, 0, 0].astype(np.float64), rtol=1e-6
  )


def test_edges_against_scipy():
  """Of each image by itself, as the authors' program has them."""
  rng = np.random.default_rng(3)
  x = rng.random((2, 7, 9, 3), np.float32)
  want = np.stack(
    [
      np.hypot(scipy.ndimage.sobel(y, axis=0), scipy.ndimage.sobel(y, axis=1))
      for y in x
    ]
  )
  np.testing.assert_allclose(one_step.sobel(x), want, atol=1e-4)
  above = want.sum(-1) > 12
  np.testing.assert_array_equal(one_step.edges(2 * x - 1, 12.0, None), above)
  assert 0.2 < above.mean() < 0.8
  grey = x[..., :1]
  three = np.repeat(grey, 3, axis=-1)
  np.testing.assert_array_equal(
    one_step.edges(2 * grey - 1, 12.0, None),
    one_step.edges(2 * three - 1, 12.0, None),
  )
  assert one_step.edges(grey, 12.0, 16).shape == (2, 16, 16)


def test_finished_blocks_are_kept(memorized, tmp_path):
  cond, detector = captions(36), membership.DETECTORS["confidence"]
  options = dict(batch=16, path=tmp_path / "s", draws=2)
  first = prompt_scores.score(detector, memorized, cond, **options)
  assert store.open(tmp_path / "s").complete()

  def never(*args):
    raise AssertionError("it was computed again")

  other = Denoiser(
    eps=never, schedule=SHORT, shape=(8, 8, 1), null_cond=memorized.null_cond
  )
  again = prompt_scores.score(detector, other, cond, **options)
  np.testing.assert_array_equal(again, first)


def test_on_the_host_as_on_devices(memorized):
  """A model that JAX cannot trace."""
  host = Denoiser(
    eps=lambda x, t, cond: np.asarray(memorized.eps(x, t, cond)),
    schedule=SHORT,
    shape=(8, 8, 1),
    null_cond=memorized.null_cond,
    traceable=False,
  )
  cond = jax.tree.map(lambda leaf: leaf[11:13], captions(36))
  for name in ("magnitude", "edges"):
    options = OPTIONS[name] | {"draws": 1}
    np.testing.assert_allclose(
      membership.prompt_score(name, host, cond, **options),
      membership.prompt_score(name, memorized, cond, **options),
      rtol=1e-3,
    )


def test_what_cannot_be_is_named(memorized, digits):
  def run(name="magnitude", model=memorized, cond=None, **options):
    cond = captions(4) if cond is None else cond
    return membership.prompt_score(name, model, cond, **options)

  with pytest.raises(ValueError, match="unknown detector 'wen': choose one of"):
    run("wen")
  with pytest.raises(ValueError, match="no option 'step': it takes steps, fol"):
    run(step=3)
  with pytest.raises(ValueError, match=r"followed = 9 of steps = 4"):
    run(steps=4, followed=9)
  with pytest.raises(ValueError, match="draws = 0"):
    run("edges", draws=0)
  with pytest.raises(ValueError, match=r"threshold = 0: expected"):
    run("edges", threshold=0)
  with pytest.raises(ValueError, match=r"'magnitude' needs Denoiser.null_cond"):
    run(model=gaussian(np.zeros((8, 8, 1)), np.eye(64), SHORT))
  bad = captions(4)
  bad["tokens"][2, 0, 0] = np.nan
  with pytest.raises(FloatingPointError, match=r"of 1 prompts .* \(ids 2\)"):
    run(cond=bad)

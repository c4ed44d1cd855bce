# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest

from diffmem.denoiser import captioned_set, finite_set
from diffmem.denoiser.captioned import flat
from diffmem.diffusion import schedules

SCHEDULE = schedules.linear()
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (12, 4, 4, 1)).astype(np.float32)
IDS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3])
CAPTIONS = {
  "tokens": RNG.normal(size=(4, 5, 3)).astype(np.float32),
  "mask": np.arange(5)[None] < np.array([5, 3, 4, 2])[:, None],
}
T = np.full(4, 300)
X = RNG.normal(size=(4, 4, 4, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
  return captioned_set(IMAGES, IDS, CAPTIONS, SCHEDULE)


def test_a_caption_means_its_images_and_the_null_condition_all(model):
  twin = finite_set(IMAGES, SCHEDULE, labels=IDS)
  np.testing.assert_allclose(
    model.eps(X, T, CAPTIONS), twin.eps(X, T, np.arange(4)), atol=1e-5
  )
  null = jax.tree.map(lambda leaf: np.stack([leaf] * 4), model.null_cond)
  for cond in (null, None):
    np.testing.assert_allclose(
      model.eps(X, T, cond), twin.eps(X, T, None), atol=1e-5
    )


def test_tokens_outside_the_mask_are_not_read(model):
  noisy = dict(CAPTIONS)
  noisy["tokens"] = np.where(
    CAPTIONS["mask"][..., None], CAPTIONS["tokens"], 7.0
  )
  np.testing.assert_array_equal(flat(noisy), flat(CAPTIONS))


def test_between_two_conditions_it_is_the_posterior(model):
  """Against the sum over captions and images, in float64."""
  spread = 1.6
  model = captioned_set(IMAGES, IDS, CAPTIONS, SCHEDULE, spread=spread)
  e = jax.tree.map(lambda leaf: leaf[:1] * 0.6, CAPTIONS["tokens"])
  cond = {"tokens": e, "mask": CAPTIONS["mask"][:1]}
  points = np.concatenate([np.zeros((1, 20)), np.asarray(flat(CAPTIONS))])
  gap = ((np.asarray(flat(cond), np.float64) - points) ** 2).sum(1)
  told = np.exp(-gap / (2 * spread**2))
  told /= told.sum()
  prior = told[0] / 12 + told[1:][IDS] / np.bincount(IDS)[IDS]
  np.testing.assert_allclose(prior.sum(), 1)
  assert 0.05 < told[0] < 0.95
  a = np.sqrt(SCHEDULE.alpha_bar[300])
  s = np.sqrt(1 - a**2)
  x, y = X[:1].reshape(1, -1), IMAGES.reshape(12, -1).astype(np.float64)
  weights = prior * np.exp(-((x - a * y) ** 2).sum(1) / (2 * s**2))
  clean = weights @ y / weights.sum()
  expected = (x - a * clean) / s
  got = model.eps(X[:1], T[:1], cond)
  np.testing.assert_allclose(got.reshape(1, -1), expected, atol=1e-4)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(ids=IDS[:5]), r"shape \(5,\) for 12 images"),
    (dict(ids=np.where(IDS == 3, 2, IDS)), "name 3 of them"),
    (
      dict(captions={**CAPTIONS, "mask": np.zeros((4, 5), bool)}),
      "conditions -1 and 0 are alike",
    ),
  ],
)
def test_what_cannot_be_is_named(change, message):
  given = dict(ids=IDS, captions=CAPTIONS) | change
  with pytest.raises(ValueError, match=message):
    captioned_set(IMAGES, given["ids"], given["captions"], SCHEDULE)

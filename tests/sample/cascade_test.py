# SPDX-License-Identifier: Apache-2.0
"""Cascades of denoisers in closed form: what must come out is known.

The base is the optimal denoiser of captioned 2x2 images; the stage that
enlarges them is that of their 4x4 originals, each weighed by how well it
explains the low-resolution image that is given, noise and all.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import arrays, keys, store
from diffmem.denoiser import Denoiser, oracles
from diffmem.denoiser.captioned import captioned_set
from diffmem.diffusion import augmentation, process, schedules
from diffmem.sample import bank, cascade, chain, conditions

SCHEDULE = schedules.cosine(60)
KEY = keys.root(5)
SETTINGS = dict(stepper="ddim", steps=40, eta=0.0, clip=True)
IDS = np.arange(24)
CAPTIONS = np.repeat(np.arange(4), 2)  # of the eight images


@pytest.fixture(scope="module")
def pixels():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (8, 4, 4, 1), np.uint8)


@pytest.fixture(scope="module")
def words():
  rng = np.random.default_rng(1)
  tokens = rng.standard_normal((4, 2, 3)).astype(np.float32)
  return {"tokens": tokens, "mask": np.array([[True, i > 1] for i in range(4)])}


def enlarging(images, small) -> Denoiser:
  """The optimal denoiser of images given their small ones with noise."""
  params = oracles.set_params(images)
  small = jnp.asarray(small).reshape(len(images), -1)

  def apply(params, x_t, t, cond=None):
    a, s = process.levels(cond["level"][:, None], SCHEDULE.alpha_bar)
    low = cond["low"].reshape(len(x_t), -1)
    gap = low[:, None] - a[:, :, None] * small[None]
    weight = -(gap**2).sum(-1) / (2 * s**2)
    return oracles.set_eps(params, x_t, t, weight, SCHEDULE)

  return Denoiser(
    schedule=SCHEDULE,
    shape=tuple(images.shape[1:]),
    params=params,
    apply=apply,
    low=(2, 2, 1),
  )


@pytest.fixture(scope="module")
def parts(pixels, words):
  x = np.asarray(arrays.from_uint8(pixels))
  small = np.asarray(augmentation.smaller(x, 2))
  base = captioned_set(small, CAPTIONS, words, SCHEDULE)
  stage = enlarging(x, small)
  up = cascade.Upsampler(
    stage, chain.chain(stage, guidance=1.0, **SETTINGS), level=0
  )
  make = chain.chain(base, guidance=1.5, **SETTINGS)
  params = (base.params, stage.params)
  return cascade.cascade(base, make, (up,)), params, base, up


def nearest(images, pixels):
  """(index, largest difference in grey levels) of the closest original."""
  got = np.asarray(images).astype(int)
  gaps = np.abs(got[:, None] - pixels[None].astype(int)).max(axis=(2, 3, 4))
  return gaps.argmin(axis=1), gaps.min(axis=1)


@pytest.fixture(scope="module")
def whole(parts, words):
  sample, params, *_ = parts
  cond = jax.tree.map(lambda leaf: jnp.asarray(leaf)[IDS % 4], words)
  return jax.jit(sample)(params, IDS, KEY, cond), cond


def test_every_caption_brings_its_own_images_and_no_other(whole, pixels):
  found, gap = nearest(arrays.to_uint8(whole[0]), pixels)
  assert gap.max() <= 1
  np.testing.assert_array_equal(CAPTIONS[found], IDS % 4)
  assert set(found) == set(range(8))


def test_a_sample_is_a_function_of_its_id(whole, parts):
  sample, params, *_ = parts
  images, cond = whole
  some = np.array([17, 3, 8])
  few = jax.tree.map(lambda leaf: leaf[some], cond)
  again = jax.jit(sample)(params, some, KEY, few)
  np.testing.assert_allclose(again, images[some], atol=1e-3)


def test_stages_draw_from_streams_of_their_own(parts):
  *_, up = parts
  x = jnp.linspace(-2.0, 2.0, 8).reshape(2, 2, 2, 1)
  own = keys.stream(KEY, "upsampler", 0)
  made = cascade.noised(up, x, np.array([4, 9]), own)
  noise = [
    jax.random.normal(keys.stream(k, "low"), (2, 2, 1))
    for k in keys.per_id(own, np.array([4, 9]))
  ]
  ab = SCHEDULE.alpha_bar[0]
  want = np.sqrt(ab) * np.clip(x, -1, 1) + np.sqrt(1 - ab) * np.stack(noise)
  np.testing.assert_allclose(made["low"], want, atol=1e-6)
  np.testing.assert_array_equal(made["level"], [0, 0])


@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_banks_by_prompt_on_many_devices(
  backend, parts, words, pixels, tmp_path
):
  sample, params, *_ = parts
  prompted = conditions.Prompted(
    texts=("a", "b", "c", "d"),
    tree=words,
    ids=np.arange(20) // 5,
    row=lambda ids: jnp.minimum(jnp.asarray(ids) // 5, 3),
    digest="",
  )
  generate = conditions.generator(sample, prompted)
  images = store.create(
    tmp_path / "images", shape=(20, 4, 4, 1), dtype=np.uint8, chunk=3
  )
  given = {"weights": params, "conditions": words}
  bank.fill(images, generate, given, KEY, backend=backend, progress=False)
  found, gap = nearest(images[:], pixels)
  assert gap.max() <= 1
  np.testing.assert_array_equal(CAPTIONS[found], np.arange(20) // 5)
  one = jax.jit(generate)(given, np.arange(3), KEY)
  np.testing.assert_array_equal(images[:3], arrays.to_uint8(one))


def test_what_does_not_follow_is_refused(parts, pixels):
  _, _, base, up = parts
  make = chain.chain(base, guidance=1.0, **SETTINGS)
  with pytest.raises(ValueError, match=r"upsampler 1 enlarges .* \(4, 4, 1\)"):
    cascade.cascade(base, make, (up, up))
  with pytest.raises(ValueError, match=r"needs Denoiser\.low"):
    cascade.Upsampler(base, make, 0)
  with pytest.raises(ValueError, match="t=60 is outside"):
    cascade.Upsampler(up.denoiser, make, 60)
  plain = oracles.finite_set(np.zeros((1, 2, 2, 1), np.float32), SCHEDULE)
  null = {"tokens": np.zeros(3), "mask": np.zeros(1, bool)}
  told = Denoiser(
    eps=up.denoiser.eps, schedule=SCHEDULE, shape=(4, 4, 1), low=(2, 2, 1),
    null_cond=null,
  )  # fmt: skip
  reading = cascade.Upsampler(told, make, 0)
  with pytest.raises(ValueError, match="takes captions, the base has none"):
    cascade.cascade(plain, make, (reading,))

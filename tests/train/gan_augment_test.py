# SPDX-License-Identifier: Apache-2.0
"""Augmentations of GANs: nothing at p = 0, differentiable, as published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import keys
from diffmem.train import (
  gan_ada,
  gan_augment,
  gan_diffaugment,
  gan_negatives,
  gan_warp,
)

ADA = {
  "name": "ada",
  "blit": True,
  "geometry": True,
  "colour": True,
  "start": 0.0,
  "target": 0.6,
  "interval": 4,
  "images": 500_000,
}
ALL = {"blit": True, "geometry": True, "colour": True}


def images(b=16, shape=(8, 6, 1), seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1.0, 1.0, (b, *shape)).astype(np.float32)


ada = jax.jit(gan_ada.augment, static_argnames=("blit", "geometry", "colour"))


def test_nothing_happens_with_probability_nought():
  x = images(shape=(8, 6, 3))
  moved = ada(x, keys.root(1), 0.0, blit=True, geometry=True, colour=False)
  np.testing.assert_array_equal(moved, x)
  found = ada(x, keys.root(1), 0.0, blit=False, geometry=False, colour=True)
  np.testing.assert_allclose(found, x, atol=2e-6)


def test_as_many_images_change_as_should():
  x = images(2000, (4, 4, 1))
  for p in (0.2, 0.7):
    found = ada(x, keys.root(2), p, blit=False, geometry=False, colour=True)
    changed = (np.abs(found - x) > 1e-5).any((1, 2, 3)).mean()
    # Of a grey image: brightness, contrast and half of the mirrored luma.
    expected = 1 - (1 - p) ** 2 * (1 - p / 2)
    # Hue and saturation leave grey pixels alone.
    assert abs(changed - expected) < 0.04


def test_blits_only_exchange_pixels():
  """Square images: the same grey levels, but for those that an edge repeats."""
  x = images(64, (8, 8, 1))
  found = ada(x, keys.root(3), 1.0, blit=True, geometry=False, colour=False)
  for before, after in zip(x, np.asarray(found), strict=True):
    near = np.abs(after.reshape(-1, 1) - before.reshape(1, -1)).min(1)
    assert near.max() < 1e-6
  assert np.abs(found - x).max() > 0.1


def test_an_affine_map_reads_as_scipy_does():
  ndimage = pytest.importorskip("scipy.ndimage")
  x = images(3, (7, 6, 1), seed=4)

  @jax.jit
  def move(x):
    maps = gan_warp.rotate(jnp.array([0.3, 1.0, -2.0]))
    scaled = gan_warp.scale(jnp.full(3, 0.8), jnp.full(3, 1.1))
    moved = gan_warp.shift(jnp.full(3, 0.25), jnp.full(3, -1.5))
    maps = gan_warp.after(gan_warp.after(maps, scaled), moved)
    return maps, gan_warp.affine(x, maps)

  maps, found = (np.asarray(v) for v in move(x))
  middle = np.array([3.0, 2.5])
  for i in range(3):
    m = np.asarray(maps[i], np.float64)
    offset = m[:2, :2] @ -middle + m[:2, 2] + middle
    expected = ndimage.affine_transform(
      np.asarray(x[i, :, :, 0]), m[:2, :2], offset, order=1, mode="mirror"
    )
    np.testing.assert_allclose(found[i, :, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["ada", "diffaugment"])
def test_gradients_pass(kind):
  """Images are augmented by a linear map: its gradient is that of any point."""
  x = images(4, (6, 6, 3))
  if kind == "ada":

    def run(y):
      return gan_ada.augment(y, keys.root(5), 1.0, **ALL)
  else:
    policy = ("color", "translation", "cutout")

    def run(y):
      return gan_diffaugment.augment(y, keys.root(5), policy=policy)

  @jax.jit
  def both(y, step):
    _, along = jax.jvp(run, (y,), (step,))
    return run(y), along, jax.vjp(run, y)[1](there)[0]

  rng = np.random.default_rng(6)
  step, there = (rng.normal(size=x.shape).astype(np.float32) for _ in "ab")
  made, along, back = (np.asarray(v) for v in both(x, step))
  np.testing.assert_allclose(
    (along * there).sum(), (back * step).sum(), rtol=1e-4, atol=1e-4
  )
  near = np.asarray(both(x + 0.01 * step, step)[0]) - made
  np.testing.assert_allclose(near, 0.01 * along, atol=1e-4)
  assert np.abs(back).max() > 0


def test_the_controller_moves_at_the_published_rate():
  """Batches of 64: 4 * 64 / 500,000 every fourth, towards sign 0.6."""
  made = gan_augment.create(ADA)
  state, p, seen = made.init(), 0.0, []
  control = jax.jit(made.control)
  rng = np.random.default_rng(0)
  for step in range(64):
    share = 0.9 if step < 40 else 0.6  # of positive signs: r of .8, then .2
    logits = np.where(rng.permutation(64) < 64 * share, 1.5, -0.5)
    state = control(state, logits.astype(np.float32))
    seen.append(np.sign(logits).mean())
    if len(seen) == 4:
      p = max(0.0, p + np.sign(np.mean(seen) - 0.6) * 4 * 64 / 500_000)
      seen = []
    np.testing.assert_allclose(float(state["p"]), p, rtol=1e-5, atol=1e-9)
  assert p == pytest.approx(4 * 64 / 500_000 * (10 - 6))


def test_p_does_not_fall_below_nought_and_may_be_fixed():
  made = gan_augment.create(ADA)
  state, control = made.init(), jax.jit(made.control)
  for _ in range(8):
    state = control(state, np.full(64, -1.0, np.float32))
  assert float(state["p"]) == 0.0
  fixed = gan_augment.create(ADA | {"start": 0.3, "target": None})
  state = fixed.init()
  for _ in range(8):
    state = fixed.control(state, jnp.full(64, 1.0))
  assert float(state["p"]) == pytest.approx(0.3)


def test_diffaugment_translates_by_whole_pixels_and_cuts_squares():
  x = 1.0 + images(200, (8, 8, 1)) ** 2  # no zeros
  moved = np.asarray(jax.jit(gan_diffaugment.translation)(x, keys.root(1)))
  seen = set()
  for before, after in zip(x, moved, strict=True):
    rows, columns = np.nonzero(after[..., 0])
    dy = rows.min() if rows.min() else rows.max() - 7
    dx = columns.min() if columns.min() else columns.max() - 7
    seen.add((int(dy), int(dx)))
    padded = np.pad(before[..., 0], 1)
    np.testing.assert_array_equal(
      after[..., 0], padded[1 - dy : 9 - dy, 1 - dx : 9 - dx]
    )
  assert seen == {(y, z) for y in (-1, 0, 1) for z in (-1, 0, 1)}
  cut = np.asarray(jax.jit(gan_diffaugment.cutout)(x, keys.root(1))) == 0
  assert cut.sum((1, 2, 3)).max() == 16
  assert cut.sum((1, 2, 3)).min() >= 4  # the middle lies in the image
  assert cut.any((0, 3)).all()


def test_color_keeps_within_its_bounds():
  x = images(50, (4, 4, 3))
  found = jax.jit(gan_diffaugment.color)(x, keys.root(1))
  shift = (np.asarray(found) - x).mean((1, 2, 3))
  assert np.abs(shift).max() <= 0.5
  assert np.abs(shift).max() > 0.4


@pytest.mark.parametrize("name", list(gan_negatives.NEGATIVES))
def test_negatives_are_made_of_the_images_and_are_none_of_them(name):
  x = images(12, (8, 8, 1))
  made = np.asarray(jax.jit(gan_negatives.create(name))(x, keys.root(1)))
  assert made.shape == x.shape
  assert (np.abs(made[:, None] - x[None]).max((2, 3, 4)) > 0.1).all()
  if name == "jigsaw":
    np.testing.assert_allclose(
      np.sort(made.reshape(12, -1)), np.sort(x.reshape(12, -1))
    )
    quarters = x.reshape(12, 2, 4, 2, 4).transpose(0, 1, 3, 2, 4)
    first = made[:, :4, :4, 0]
    near = np.abs(quarters.reshape(12, 4, 4, 4) - first[:, None]).max((2, 3))
    assert (near.min(1) == 0).all()


def test_what_cannot_be_is_refused():
  with pytest.raises(ValueError, match="choose one of none, diffaugment, ada"):
    gan_augment.create({"name": "adda"})
  with pytest.raises(ValueError, match="none takes name"):
    gan_augment.create({"name": "none", "policy": ("color",)})
  with pytest.raises(ValueError, match="policy=\\('colour',\\): give a list"):
    gan_augment.create({"name": "diffaugment", "policy": ("colour",)})
  with pytest.raises(ValueError, match="start=2 must lie"):
    gan_augment.create(ADA | {"start": 2})
  with pytest.raises(ValueError, match="7 x 8 pixels have none"):
    gan_negatives.jigsaw(jnp.zeros((2, 7, 8, 1)), keys.root(0))
  with pytest.raises(ValueError, match="'jig': choose one of jigsaw"):
    gan_negatives.create("jig")

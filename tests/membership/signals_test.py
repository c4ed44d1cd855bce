# SPDX-License-Identifier: Apache-2.0
"""Losses: their values, the noise they share, and how they resume."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import store
from diffmem.denoiser import Denoiser, finite_set
from diffmem.diffusion import schedules
from diffmem.membership import loss, queries, signals

SCHEDULE = schedules.linear()
SHAPE = (4, 4, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (11, *SHAPE), np.uint8)
OPTIONS = {
  "t": (10, 300),
  "draws": 3,
  "seed": 7,
  "augment": ("identity",),
  "batch": 4,
  "progress": False,
}


def plain(images):
  return images.astype(np.float32) / np.float32(127.5) - 1


def linear_eps(x_t, t, cond):
  return 0.3 * x_t + t[:, None, None, None] / 1000.0


def losses(model, images, **options):
  """Those of each draw, [n t draws]: one augmentation alone."""
  return signals.compute(model, images, loss.SIGNAL, **options)[..., 0]


def denoiser(eps=linear_eps, **kw):
  return Denoiser(eps, SCHEDULE, SHAPE, **kw)


def test_values_against_a_loop():
  got = losses(denoiser(), IMAGES, **OPTIONS)
  assert got.shape == (11, 2, 3)
  assert got.dtype == np.float32
  expected = np.empty_like(got)
  for i, image in enumerate(plain(IMAGES).astype(np.float64)):
    for a, t in enumerate(OPTIONS["t"]):
      ab = np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: t + 1])
      for j in range(3):
        eps = np.asarray(queries.noise(7, t, j, SHAPE), np.float64)
        x_t = np.sqrt(ab) * image + np.sqrt(1 - ab) * eps
        expected[i, a, j] = np.mean((0.3 * x_t + t / 1000 - eps) ** 2)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_noise_is_common_to_all_images_and_models():
  """A model that predicts 0 has the loss of the noise alone."""
  zero = denoiser(lambda x_t, t, cond: 0 * x_t)
  got = losses(zero, IMAGES, **OPTIONS)
  np.testing.assert_array_equal(got, np.broadcast_to(got[:1], got.shape))
  per_draw = got[0].ravel()
  assert len(set(per_draw.tolist())) == 6  # each (t, j) has its own
  for a, t in enumerate(OPTIONS["t"]):
    for j in range(3):
      eps = queries.noise(7, t, j, SHAPE)
      np.testing.assert_allclose(got[0, a, j], jnp.mean(eps**2), rtol=1e-5)
  other = {**OPTIONS, "t": (300,), "draws": 2}
  alone = losses(zero, IMAGES[5:6], **other)
  np.testing.assert_array_equal(alone[0, 0], got[0, 1, :2])
  reseeded = losses(zero, IMAGES, **{**OPTIONS, "seed": 8})
  assert not np.any(reseeded[0] == got[0])


@pytest.mark.parametrize("batch", [1, 5, 8, 11, 512])
def test_block_size_does_not_matter(batch):
  got = losses(denoiser(), IMAGES, **{**OPTIONS, "batch": batch})
  expected = losses(denoiser(), IMAGES, **OPTIONS)
  np.testing.assert_allclose(got, expected, rtol=2e-6)


def test_uint8_and_floats_are_the_same_images():
  np.testing.assert_allclose(
    losses(denoiser(), plain(IMAGES), **OPTIONS),
    losses(denoiser(), IMAGES, **OPTIONS),
    rtol=1e-5,
  )


def test_a_host_model_gives_the_same():
  def on_host(x_t, t, cond):
    assert not isinstance(x_t, jax.core.Tracer)
    return linear_eps(np.asarray(x_t), np.asarray(t), cond)

  np.testing.assert_allclose(
    losses(denoiser(on_host, traceable=False), IMAGES, **OPTIONS),
    losses(denoiser(), IMAGES, **OPTIONS),
    rtol=1e-5,
  )


def counting(calls):
  def eps(x_t, t, cond):
    calls.append(len(x_t))
    if len(calls) == 8:
      raise KeyboardInterrupt
    return linear_eps(x_t, t, cond)

  return denoiser(eps, traceable=False)


def test_finished_blocks_are_not_computed_again(tmp_path):
  calls = []
  path = tmp_path / "losses"
  with pytest.raises(KeyboardInterrupt):
    losses(counting(calls), IMAGES, path=path, **OPTIONS)
  assert store.open(path).written() == [0]
  got = losses(counting(calls), IMAGES, path=path, **OPTIONS)
  assert len(calls) == 8 + 2 * 6  # two of three blocks, 6 calls each
  calm = losses(denoiser(linear_eps, traceable=False), IMAGES, **OPTIONS)
  np.testing.assert_array_equal(got, calm)
  np.testing.assert_array_equal(store.open(path)[:][..., 0], calm)
  losses(counting(calls), IMAGES, path=path, **OPTIONS)
  assert len(calls) == 20


def test_a_loss_that_is_not_finite_names_its_images(tmp_path):
  def eps(x_t, t, cond):
    bad = (t[:, None, None, None] == 300) & (x_t.max((1, 2, 3)) > 50)[
      :, None, None, None
    ]
    return jnp.where(bad, jnp.nan, x_t)

  images = 0 * plain(IMAGES)
  wild = denoiser(eps, encode=lambda x: jnp.where(x > 0.5, 1000.0, x))
  images[[6, 9]] = 1.0
  ids = np.arange(11) * 10
  with pytest.raises(
    FloatingPointError, match=r"losses of 1 images at t = 300 \(ids 60\)"
  ) as error:
    losses(wild, images, ids=ids, path=tmp_path / "losses", **OPTIONS)
  assert "\n" not in str(error.value)
  assert store.open(tmp_path / "losses").written() == [0]


def test_labels_reach_the_model():
  pixels = plain(IMAGES)
  labels = np.arange(11) % 2
  model = finite_set(pixels, SCHEDULE, labels=labels)
  options = {**OPTIONS, "t": (300,)}
  right = losses(model, IMAGES, cond=labels, **options)
  wrong = losses(model, IMAGES, cond=1 - labels, **options)
  none = losses(model, IMAGES, **options)
  assert right.mean() < none.mean() + 1e-3 < wrong.mean()
  with pytest.raises(ValueError, match=r"labels run from 0 to 5.* 0..1"):
    losses(model, IMAGES, cond=np.arange(11) % 6, **options)
  with pytest.raises(ValueError, match="2 labels for 11 images"):
    losses(model, IMAGES, cond=labels[:2], **options)


@pytest.mark.parametrize(
  ("images", "message"),
  [
    (IMAGES[:, :3], r"images have shape \(11, 3, 4, 1\).*\[n, 4, 4, 1\]"),
    (IMAGES[0], "images have shape"),
    (IMAGES[:0], "0 images"),
    (IMAGES.astype(np.int32), "images are int32"),
    (IMAGES.astype(np.float32), "reach from .* floats in"),
    (plain(IMAGES) * np.nan, "reach from nan to nan"),
  ],
)
def test_images_that_the_model_cannot_take(images, message):
  with pytest.raises(ValueError, match=message):
    losses(denoiser(), images, **OPTIONS)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"t": (1000,)}, "t=1000 is outside this schedule"),
    ({"t": ()}, "one or more distinct times"),
    ({"t": (5, 5)}, "one or more distinct times"),
    ({"draws": 0}, "draws = 0, expected at least 1"),
    ({"batch": 0}, "batch = 0, expected at least 1"),
  ],
)
def test_nothing_to_compute(change, message):
  with pytest.raises(ValueError, match=message):
    losses(denoiser(), IMAGES, **OPTIONS | change)


def test_killed_while_writing_equals_calm(tmp_path, monkeypatch):
  """A write that fails keeps what was written before it."""
  calm = losses(denoiser(), IMAGES, path=tmp_path / "calm", **OPTIONS)
  write = store.Store.write

  def fails(self, number, values):
    if number == 1:
      raise KeyboardInterrupt
    write(self, number, values)

  monkeypatch.setattr(store.Store, "write", fails)
  with pytest.raises(KeyboardInterrupt):
    losses(denoiser(), IMAGES, path=tmp_path / "killed", **OPTIONS)
  monkeypatch.setattr(store.Store, "write", write)
  assert store.open(tmp_path / "killed").written() == [0]
  got = losses(denoiser(), IMAGES, path=tmp_path / "killed", **OPTIONS)
  np.testing.assert_array_equal(got, calm)
  monkeypatch.setattr(signals, "Queries", lambda *a: pytest.fail("ran again"))
  again = losses(denoiser(), IMAGES, path=tmp_path / "killed", **OPTIONS)
  np.testing.assert_array_equal(again, calm)


class Rows:
  """Images that can be read in parts alone, and not in large ones."""

  def __init__(self, images, most):
    self.images, self.most = images, most
    self.shape, self.dtype = images.shape, images.dtype

  def __len__(self):
    return len(self.images)

  def __getitem__(self, rows):
    found = self.images[rows]
    assert len(found) <= self.most
    return found

  def __array__(self, dtype=None, copy=None):
    raise AssertionError("read as a whole")


@pytest.mark.parametrize("images", [IMAGES, plain(IMAGES)])
def test_images_are_read_a_block_at_a_time(images):
  got = losses(denoiser(), Rows(images, 4), **OPTIONS)
  np.testing.assert_array_equal(got, losses(denoiser(), images, **OPTIONS))


def test_a_bad_block_of_images_is_refused_by_its_range():
  images = plain(IMAGES)
  images[9, 0, 0, 0] = np.nan
  with pytest.raises(ValueError, match="reach from nan to nan"):
    losses(denoiser(), Rows(images, 4), **OPTIONS)


def test_a_large_result_is_its_store(tmp_path, monkeypatch):
  calm = losses(denoiser(), IMAGES, **OPTIONS)
  monkeypatch.setattr(signals, "HELD", 100)
  got = signals.compute(
    denoiser(), IMAGES, loss.SIGNAL, path=tmp_path / "s", **OPTIONS
  )
  assert isinstance(got, store.Store)
  np.testing.assert_array_equal(got[:][..., 0], calm)


def test_other_options_do_not_fit_what_is_kept(tmp_path):
  losses(denoiser(), IMAGES, path=tmp_path / "s", **OPTIONS)
  with pytest.raises(ValueError, match="with another shape, type or chunk"):
    losses(denoiser(), IMAGES, path=tmp_path / "s", **OPTIONS | {"draws": 2})


def test_conditions_that_are_no_labels():
  """Embeddings, and a null condition that is one."""

  def eps(x_t, t, cond):
    return x_t * cond[:, 0, None, None, None] + cond[:, 1, None, None, None]

  model = denoiser(eps, null_cond=np.array([0.5, 0.1], np.float32))
  cond = np.random.default_rng(0).random((11, 2), np.float32)
  each = losses(model, IMAGES, cond=cond, **OPTIONS)
  alone = losses(model, IMAGES[7:8], cond=cond[7:8], **OPTIONS)
  np.testing.assert_allclose(alone[0], each[7], rtol=1e-5)
  none = losses(model, IMAGES, **OPTIONS)
  null = np.broadcast_to(model.null_cond, (11, 2))
  np.testing.assert_allclose(
    none, losses(model, IMAGES, cond=null, **OPTIONS), rtol=1e-6
  )
  assert np.any(none != each)


def test_models_of_one_architecture_share_their_programs():
  """Shadow models: only the first one is compiled."""
  traces = []

  def apply(params, x_t, t, cond):
    traces.append(1)
    return params * x_t

  def model(weight):
    return Denoiser(
      schedule=schedules.linear(),
      shape=SHAPE,
      params=jnp.float32(weight),
      apply=apply,
    )

  one, two = (losses(model(w), IMAGES, **OPTIONS) for w in (0.1, 0.2))
  assert len(traces) == 1
  assert not np.any(one == two)


def test_names_must_fit():
  with pytest.raises(ValueError, match="2 ids for 11 images"):
    losses(denoiser(), IMAGES, ids=np.arange(2), **OPTIONS)

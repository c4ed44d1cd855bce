# SPDX-License-Identifier: Apache-2.0
"""Features see copies as near, embed blocks alike and resume on disk."""

import inspect

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from diffmem import distances, features, store
from diffmem.features import descriptor, protocol, run

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def digits():
  return (load_digits().images * 15.9).astype(np.uint8)[:200, ..., None]


def test_pixels_are_the_rms_of_distances():
  made = features.create("pixels")
  vectors = made.embed(NOISE)
  found = distances.nearest_vectors(vectors, vectors, 6, metric=made.metric)
  expected = distances.nearest(NOISE, NOISE, 6)
  np.testing.assert_array_equal(found.ids, expected.ids)
  np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-5)


def naive_description(image):
  """The equations of the module, pixel by pixel; image [32 32 c] in 0..1."""
  side, cells, bins = 32, 8, 8
  grey = image.mean(axis=2)
  edges = np.zeros((cells, cells, bins))
  for y in range(side):
    for x in range(side):
      right = grey[y, x + 1] - grey[y, x - 1] if 0 < x < side - 1 else 0.0
      down = grey[y + 1, x] - grey[y - 1, x] if 0 < y < side - 1 else 0.0
      angle = np.arctan2(down, right) / (2 * np.pi) * bins % bins
      low = int(angle) % bins
      part = angle - int(angle)
      for i in range(cells):
        ty = max(0.0, 1 - abs((y + 0.5) / 4 - 0.5 - i))
        for j in range(cells):
          t = ty * max(0.0, 1 - abs((x + 0.5) / 4 - 0.5 - j))
          if t:
            edges[i, j, low] += np.hypot(right, down) * (1 - part) * t
            edges[i, j, (low + 1) % bins] += np.hypot(right, down) * part * t
  edges = np.sqrt(edges).ravel()
  colours = [
    [image[i : i + 4, j : j + 4].mean(axis=(0, 1)) for j in range(0, 32, 4)]
    for i in range(0, 32, 4)
  ]
  colours = np.array(colours).ravel()
  colours -= colours.mean()
  return np.concatenate(
    [
      edges / (np.linalg.norm(edges) + 0.05),
      0.5 * colours / (np.linalg.norm(colours) + 0.05),
      [0.05],
    ]
  )


def test_the_descriptor_is_its_definition():
  found = descriptor.embed(NOISE[:2])
  for image, vector in zip(NOISE, found, strict=False):
    expected = naive_description(image / 255)
    np.testing.assert_allclose(vector, expected, atol=2e-5)


def test_large_images_are_embedded_some_at_a_time(monkeypatch):
  whole = descriptor.embed(NOISE)
  monkeypatch.setattr(protocol, "VALUES", 2 * NOISE[0].size)
  np.testing.assert_allclose(descriptor.embed(NOISE), whole, atol=1e-6)


def altered(images):
  """Copies that are not equal in pixels: darker, coarser, cropped."""
  shrunk = []
  for image in images[..., 0]:
    picture = Image.fromarray(image)
    shrunk.append(np.asarray(picture.resize((16, 16), 2).resize((32, 32), 2)))
  return {
    "darker": (images * 0.8).astype(np.uint8),
    "coarser": np.stack(shrunk)[..., None],
    "cropped": np.stack(
      [
        np.asarray(Image.fromarray(x).resize((32, 32), 2, (1, 2, 30, 31)))
        for x in images[..., 0]
      ]
    )[..., None],
  }


@pytest.fixture(scope="module")
def photographs(digits):
  """Larger images with structure: digits in a grid, each a different one."""
  rows = np.random.default_rng(1).integers(0, len(digits), (60, 4, 4))
  grid = digits[rows][..., 0].transpose(0, 1, 3, 2, 4).reshape(60, 32, 32)
  return grid[..., None]


@pytest.mark.parametrize("how", ["darker", "coarser", "cropped"])
def test_the_descriptor_finds_altered_copies(photographs, how):
  copies = altered(photographs[:20])[how]
  found = distances.nearest_vectors(
    descriptor.embed(copies),
    descriptor.embed(photographs),
    2,
    metric="cosine",
  )
  np.testing.assert_array_equal(found.ids[:, 0], np.arange(20))


def test_flat_images_have_a_direction():
  flat = np.stack([np.full((8, 8, 1), v, np.uint8) for v in (0, 255)])
  vectors = descriptor.embed(flat)
  found = distances.nearest_vectors(vectors, vectors, 1, metric="cosine")
  np.testing.assert_allclose(found.distances, 0, atol=1e-6)


def test_the_classifier_learns_and_is_kept(tmp_path, photographs):
  path = tmp_path / "classifier.npz"
  copies = altered(photographs)["coarser"][:, :, ::-1]

  def margin(made):
    """How much nearer mirrored, coarser copies are to theirs than to others."""
    x = made.embed(photographs)
    cosines = x @ made.embed(np.ascontiguousarray(copies)).T
    return np.trace(cosines) / 60 - cosines.mean()

  made = features.create(
    "classifier",
    images=photographs,
    path=path,
    steps=50,
    batch=16,
    seed=1,
    progress=False,
  )
  kept = features.create("classifier", path=path)
  np.testing.assert_array_equal(
    made.embed(photographs), kept.embed(photographs)
  )
  assert made.info == kept.info
  assert margin(made) > 0.2  # 0.01 before training
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(ValueError, match=r"no \.npz of weights"):
    features.create("classifier", path=path)
  with pytest.raises(ValueError, match=r"no weights at .* and no images"):
    features.create("classifier")


@pytest.mark.parametrize("name", ["pixels", "descriptor"])
def test_a_set_on_disk_equals_the_vectors_in_memory(tmp_path, name):
  made = features.create(name)
  expected = made.embed(NOISE)
  out = run.embed_set(tmp_path / "a", NOISE, made, batch=4, progress=False)
  np.testing.assert_allclose(out[:], expected, atol=1e-6)
  assert out.dtype == np.float32
  out = run.embed_set(
    tmp_path / "b", out_store(tmp_path), made, mirror=True, progress=False
  )
  flipped = made.embed(np.ascontiguousarray(NOISE[:, :, ::-1]))
  np.testing.assert_allclose(out[:], flipped, atol=1e-6)


def out_store(folder):
  """NOISE in a store."""
  out = store.create(
    folder / "images", shape=NOISE.shape, dtype="uint8", chunk=5
  )
  out.write(0, NOISE[:5])
  out.write(1, NOISE[5:])
  return out


def test_a_stopped_set_goes_on(tmp_path):
  seen = []

  def embed(images):
    seen.append(len(images))
    if len(seen) == 3:
      raise KeyboardInterrupt
    return features.FEATURES["pixels"]().embed(images)

  made = features.Features("pixels", embed, "l2", {})
  with pytest.raises(KeyboardInterrupt):
    run.embed_set(tmp_path, NOISE, made, batch=2, progress=False)
  assert store.open(tmp_path / "vectors").written() == [0, 1]
  out = run.embed_set(tmp_path, NOISE, made, batch=2, progress=False)
  assert len(seen) == 3 + 2  # one for the length of a vector, one was left
  np.testing.assert_allclose(
    out[:], features.create("pixels").embed(NOISE), atol=1e-7
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"info": {"weights": "b"}}, r"made with info = \{'weights': 'a'\}"),
    ({"name": "other"}, "made with features = 'pixels', this run has 'other'"),
  ],
)
def test_other_weights_are_refused(tmp_path, change, message):
  one = features.create("pixels")
  first = {"name": "pixels", "info": {"weights": "a"}}
  for options, error in ((first, None), (first | change, message)):
    made = features.Features(embed=one.embed, metric="l2", **options)
    if error is None:
      run.embed_set(tmp_path, NOISE, made, progress=False)
    else:
      with pytest.raises(ValueError, match=error):
        run.embed_set(tmp_path, NOISE, made, progress=False)


def test_vectors_that_are_not_finite_are_named(tmp_path):
  def embed(images):
    vectors = np.ones((len(images), 3), np.float32)
    vectors[images[:, 0, 0, 0] == 7, 1] = np.nan
    return vectors

  images = np.zeros((6, 2, 2, 1), np.uint8)
  images[5] = 7
  made = features.Features("pixels", embed, "l2", {})
  with pytest.raises(FloatingPointError, match="vector of row 5"):
    run.embed_set(tmp_path, images, made, batch=4, progress=False)


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("clipp", {}, "features.name = 'clipp', expected one of pixels, desc"),
    ("pixels", {"path": "x"}, "have no option 'path', expected none"),
    ("sscd", {}, "features 'sscd' need 'path': set features.path"),
    (
      "sscd",
      {"path": "x.npz", "preparation": "x"},
      "preparation = 'x', expected one of official288",
    ),
  ],
)
def test_refused(name, options, message):
  with pytest.raises(ValueError, match=message):
    features.create(name, **options)


def test_every_kind_names_what_it_needs():
  for name, create in features.FEATURES.items():
    assert inspect.getdoc(create), name

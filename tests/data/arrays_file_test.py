# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from diffmem import data

RNG = np.random.default_rng(2)
PIXELS = RNG.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


@pytest.fixture
def file(tmp_path):
  def write(**arrays):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"

  return write


def refusal(source, **options):
  with pytest.raises(ValueError) as error:
    data.load(source, **options)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_rows_are_ordered_by_id(file):
  ids = np.array([30, 10, 50, 20, 40], np.uint16)
  source = file(
    images=PIXELS,
    ids=ids,
    labels=np.uint8([3, 1, 5, 2, 4]),
    captions=np.array(
      [["c", "x"], ["a", "x"], ["é", ""], ["b", ""], ["d", ""]]
    ),
    lossless=np.ones(5, bool),
    class_names=np.array(["never", "used"]),
  )
  dataset = data.load(source)
  np.testing.assert_array_equal(dataset.ids, [10, 20, 30, 40, 50])
  np.testing.assert_array_equal(dataset.images, PIXELS[[1, 3, 0, 4, 2]])
  np.testing.assert_array_equal(dataset.labels, [1, 2, 3, 4, 5])
  assert dataset.captions == ("a", "b", "c", "d", "é")
  assert dataset.ids.dtype == dataset.labels.dtype == np.int64
  np.testing.assert_array_equal(dataset.take([30, 10]), PIXELS[[0, 1]])


def test_grey_images_without_anything_else(file):
  dataset = data.load(file(images=PIXELS[..., 0]))
  assert dataset.images.shape == (5, 4, 6, 1)
  assert dataset.labels is dataset.captions is dataset.num_classes is None
  np.testing.assert_array_equal(dataset.ids, np.arange(5))


def test_crop_and_resize(file):
  dataset = data.load(file(images=PIXELS), crop="center", resize=2)
  assert dataset.images.shape == (5, 2, 2, 3)
  assert "is 6x4, which resize=2" in refusal(file(images=PIXELS), resize=2)


@pytest.mark.parametrize(
  ("values", "hint"),
  [
    (PIXELS / 255, "say (x * 255).round()"),
    (PIXELS / 127.5 - 1, "say ((x + 1) / 2 * 255).round()"),
    (PIXELS.astype(np.float32), "say (x).round()"),
  ],
)
def test_float_images_are_told_how_to_convert(file, values, hint):
  message = refusal(file(images=values))
  assert f"are {values.dtype} in [" in message
  assert hint in message


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"pictures": PIXELS}, "has no 'images', only ['pictures']"),
    ({"images": PIXELS.astype(int)}, "images are int64: expected uint8"),
    ({"images": PIXELS[0, 0]}, "expected [b h w c], c = 1 or 3"),
    ({"images": PIXELS[:0]}, "no images"),
    ({"images": np.zeros((2, 4, 4, 4), np.uint8)}, "c = 1 or 3"),
    ({"images": PIXELS.transpose(0, 3, 1, 2)}, "images.transpose(0, 2, 3, 1)"),
    ({"images": PIXELS, "ids": [1, 2, 3, 4, 2]}, "must be unique: 2 is not"),
    ({"images": PIXELS, "ids": [1, 2]}, "holds 2 ids for 5 images"),
    ({"images": PIXELS, "ids": [-1, 0, 1, 2, 3]}, "one is -1"),
    ({"images": PIXELS, "ids": np.arange(5) / 2}, "are float64"),
    ({"images": PIXELS, "labels": np.zeros((5, 1), int)}, "of shape (5, 1)"),
    ({"images": PIXELS, "labels": ["a"] * 5}, "expected integers"),
    ({"images": PIXELS, "labels": [0, 0, -1, 0, 0]}, "one is -1"),
    ({"images": PIXELS, "captions": [b"a"] * 5}, "expected unicode strings"),
    ({"images": PIXELS, "captions": ["a"]}, "holds 1 captions for 5 images"),
    ({"images": PIXELS, "captions": np.array([None] * 5)}, "never unpickled"),
  ],
)
def test_wrong_arrays_are_refused(file, arrays, message):
  source = file(**{key: np.asarray(value) for key, value in arrays.items()})
  assert message in refusal(source)
  assert source[4:] in refusal(source)


def test_wrong_files_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="no such file; expected npz:PA"):
    data.load(f"npz:{tmp_path}/absent.npz")
  with pytest.raises(FileNotFoundError, match="expected npz:PATH"):
    data.load("npz:")
  np.save(tmp_path / "bare.npy", PIXELS)
  assert "is one bare array" in refusal(f"npz:{tmp_path}/bare.npy")
  for name, content in (("a", b""), ("b", b"PK\x03\x04 no"), ("c", b"text")):
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in refusal(f"npz:{tmp_path / name}")
  np.savez_compressed(tmp_path / "d.npz", images=PIXELS)
  content = bytearray((tmp_path / "d.npz").read_bytes())
  content[150] ^= 1
  (tmp_path / "d.npz").write_bytes(content)
  assert "is not a readable npz file" in refusal(f"npz:{tmp_path}/d.npz")

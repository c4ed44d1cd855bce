# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from diffmem.data import images
from diffmem.data.images import Fit

RNG = np.random.default_rng(0)
KEEP = {"crop": "none", "resize": None, "filter": "lanczos"}


def read(path, picture, **options):
  picture.save(path, **options)
  return images.decode(path)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
  deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
  for name in ("a.png", "a.tif"):
    found, _ = read(tmp_path / name, Image.fromarray(deep))
    assert found.shape == (256, 256, 1)
    exact = np.array([round(int(x) / 257) for x in deep.ravel()])
    np.testing.assert_array_equal(found.ravel(), exact)
  clipped = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
  assert clipped.mean() > 200, "PIL no longer clips: is this still needed?"


def test_32_bit_pixels_are_refused(tmp_path):
  with pytest.raises(ValueError, match="32-bit pixels"):
    read(tmp_path / "a.tif", Image.fromarray(np.zeros((2, 2), np.float32)))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lie_over_white(tmp_path, mode):
  pixels = RNG.integers(0, 256, (5, 7, len(mode)), dtype=np.uint8)
  found, transparent = read(tmp_path / "a.png", Image.fromarray(pixels))
  assert transparent
  alpha = pixels[..., -1:] / 255
  over_white = alpha * pixels[..., :-1] + (1 - alpha) * 255
  assert found.shape == over_white.shape
  np.testing.assert_allclose(found, over_white, atol=1)
  pixels[..., -1] = 255
  found, transparent = read(tmp_path / "b.png", Image.fromarray(pixels))
  assert not transparent
  np.testing.assert_array_equal(found, pixels[..., :-1])


def test_palettes_become_rgb_with_their_transparency(tmp_path):
  picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L")
  picture = picture.convert("P")
  picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
  found, transparent = read(tmp_path / "a.png", picture)
  colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 255, 0]]
  np.testing.assert_array_equal(found.reshape(4, 3), colours)
  assert not transparent
  for name in ("b.png", "b.gif"):
    found, transparent = read(tmp_path / name, picture, transparency=2)
    np.testing.assert_array_equal(found.reshape(4, 3)[2], [255, 255, 255])
    np.testing.assert_array_equal(found.reshape(4, 3)[:2], colours[:2])
    assert transparent


def test_a_transparent_level_of_16_bit_grey(tmp_path):
  deep = np.array([[0, 1000, 65535]], np.uint16)
  picture = Image.fromarray(deep)
  found, transparent = read(tmp_path / "a.png", picture, transparency=1000)
  np.testing.assert_array_equal(found.ravel(), [0, 255, 255])
  assert transparent


def test_one_bit_and_cmyk(tmp_path):
  bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
  found, _ = read(tmp_path / "a.png", bits)
  np.testing.assert_array_equal(found.ravel(), [0, 255])
  assert found.shape == (1, 2, 1)
  inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
  found, _ = read(tmp_path / "a.jpg", inks, quality=100)
  np.testing.assert_allclose(found, np.broadcast_to([255, 0, 0], found.shape),
                             atol=4)  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
  upright = RNG.integers(0, 256, (3, 5, 3), dtype=np.uint8)
  turns = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
  }
  stored = np.ascontiguousarray(turns[orientation](upright))
  exif = Image.Exif()
  exif[0x0112] = orientation
  found, _ = read(tmp_path / "a.png", Image.fromarray(stored), exif=exif)
  np.testing.assert_array_equal(found, upright)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_several_frames_are_refused(tmp_path, name):
  frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
  path = tmp_path / name
  frames[0].save(path, save_all=True, append_images=frames[1:])
  with pytest.raises(ValueError, match="has 2 frames: keep one"):
    images.decode(path)


def test_huge_images_are_refused_before_they_are_decoded(tmp_path):
  side = int(images.MAX_PIXELS**0.5) + 1
  path = tmp_path / "a.png"
  Image.new("1", (side, side)).save(path)
  with pytest.raises(ValueError, match="over the limit of 67108864 pixels"):
    images.decode(path)


def test_only_the_listed_formats_are_read(tmp_path):
  Image.new("RGB", (2, 2)).save(tmp_path / "a.ppm")
  (tmp_path / "a.ppm").rename(tmp_path / "a.png")
  with pytest.raises(OSError, match="cannot identify"):
    images.decode(tmp_path / "a.png")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("filter", list(images.FILTERS))
def test_resize_is_that_of_pil(channels, filter):
  image = RNG.integers(0, 256, (9, 9, channels), dtype=np.uint8)
  found = Fit("none", 4, filter)(image)
  for c in range(channels):
    plane = Image.fromarray(np.ascontiguousarray(image[..., c]))
    exact = plane.resize((4, 4), images.FILTERS[filter])
    np.testing.assert_array_equal(found[..., c], np.asarray(exact))


def test_an_image_of_the_right_size_is_untouched():
  image = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
  np.testing.assert_array_equal(Fit("center", 8, "lanczos")(image), image)
  assert Fit("none", 16, "nearest")(image).shape == (16, 16, 3)


@pytest.mark.parametrize(("height", "width"), [(4, 7), (7, 4), (5, 5), (1, 2)])
def test_the_crop_is_the_middle_square(height, width):
  image = RNG.integers(0, 256, (height, width, 1), dtype=np.uint8)
  found = Fit("center", None, "box")(image)
  side = min(height, width)
  assert found.shape == (side, side, 1)
  top, left = (height - side) // 2, (width - side) // 2
  for i in range(side):
    for j in range(side):
      assert found[i, j] == image[top + i, left + j]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"crop": "left"}, "crop='left': expected one of"),
    ({"resize": 0}, "resize=0: expected a side"),
    ({"filter": "area"}, "filter='area': expected one of"),
  ],
)
def test_unknown_settings_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    Fit(**(KEEP | change))


def test_nothing_is_squashed():
  with pytest.raises(ValueError, match="is 6x4, which resize=2 would squash"):
    Fit("none", 2, "box")(np.zeros((4, 6, 1), np.uint8))


def test_stacking_makes_grey_rgb_and_names_other_sizes():
  grey = RNG.integers(0, 256, (2, 3, 1), dtype=np.uint8)
  colour = RNG.integers(0, 256, (2, 3, 3), dtype=np.uint8)
  found = images.stack([grey, colour], ["a", "b"])
  np.testing.assert_array_equal(found[0], np.repeat(grey, 3, axis=-1))
  np.testing.assert_array_equal(found[1], colour)
  assert images.stack([grey, grey], ["a", "b"]).shape == (2, 2, 3, 1)
  other = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(ValueError) as error:
    images.stack([grey, colour, *[other] * 5], list("abcdefg"))
  assert str(error.value) == (
    "sizes differ: 'a' is 3x2, 'c' is 4x4, 'd' is 4x4, 'e' is 4x4; 5 of 7 are "
    "not like the first: set crop='center' and resize=SIDE, or make them one "
    "size"
  )

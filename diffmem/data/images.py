# SPDX-License-Identifier: Apache-2.0
"""From image files to uint8 arrays, and the one crop and resize.

Every conversion is explicit:

* grey stays one channel, palette and CMYK become RGB;
* 16-bit grey becomes round(x / 257), so that 65535 -> 255;
* transparent pixels are composited over white;
* EXIF orientation is applied;
* several frames, 32-bit pixels and more than MAX_PIXELS are refused.

Cropping comes before resizing. Nothing is ever squashed: an image that is not
square is refused by a resize unless it is cropped first.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import ExifTags, Image, ImageOps

File = Any  # a path, or an opened binary file: no type has all of these
MAX_PIXELS = 2**26
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
WIDE = ("I", "F")  # modes of 32-bit pixels
CROPS = ("none", "center")
FILTERS = {
  "lanczos": Image.Resampling.LANCZOS,
  "bicubic": Image.Resampling.BICUBIC,
  "bilinear": Image.Resampling.BILINEAR,
  "box": Image.Resampling.BOX,
  "nearest": Image.Resampling.NEAREST,
}


@dataclasses.dataclass(frozen=True)
class Fit:
  """Crop and resize, applied to every image of every source alike.

  Attributes:
    crop: "none", or "center" for the largest square in the middle.
    resize: side in pixels, or None to keep the size.
    filter: how to resize; a key of FILTERS.
  """

  crop: str
  resize: int | None
  filter: str

  def __post_init__(self) -> None:
    if self.crop not in CROPS:
      raise ValueError(f"crop={self.crop!r}: expected one of {list(CROPS)}")
    if self.resize is not None and self.resize < 1:
      raise ValueError(f"resize={self.resize}: expected a side in pixels")
    if self.filter not in FILTERS:
      raise ValueError(
        f"filter={self.filter!r}: expected one of {list(FILTERS)}"
      )

  def __call__(
    self, image: UInt8[np.ndarray, "h w c"]
  ) -> UInt8[np.ndarray, "out_h out_w c"]:
    """ValueError where a resize would squash; it reads "NAME is 6x4, ..."."""
    if self.crop == "center":
      image = center(image)
    if self.resize is None:
      return image
    height, width, channels = image.shape
    if height != width:
      raise ValueError(
        f"is {width}x{height}, which resize={self.resize} would squash: "
        "set crop='center'"
      )
    if height == self.resize:
      return image
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    size = (self.resize, self.resize)
    resized = np.asarray(picture.resize(size, FILTERS[self.filter]))
    return resized.reshape(*size, channels)


def center(
  image: UInt8[np.ndarray, "h w c"],
) -> UInt8[np.ndarray, "side side c"]:
  """The largest square in the middle; an odd pixel more is cut at the end."""
  height, width, _ = image.shape
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  return image[top : top + side, left : left + side]


def stack(
  images: list[UInt8[np.ndarray, "_ _ _"]], names: Sequence[str]
) -> UInt8[np.ndarray, "b h w c"]:
  """One array of images of one size; grey among colour becomes RGB.

  The list is left with views of the result, so that nothing is held twice.
  """
  size = images[0].shape[:2]
  other = [i for i, image in enumerate(images) if image.shape[:2] != size]
  if other:
    shown = ", ".join(
      f"{names[i]!r} is {images[i].shape[1]}x{images[i].shape[0]}"
      for i in [0, *other[:3]]
    )
    raise ValueError(
      f"sizes differ: {shown}; {len(other)} of {len(images)} are not like the "
      "first: set crop='center' and resize=SIDE, or make them one size"
    )
  channels = max(image.shape[2] for image in images)
  out = np.empty((len(images), *size, channels), np.uint8)
  for row in range(len(out)):
    out[row] = images[row]
    images[row] = out[row]
  return out


def decode(
  file: File, *, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "h w c"], bool]:
  """Reads an image file: its pixels, and whether it had transparent ones.

  Raises ValueError (a refused kind of image) or whatever PIL raises.
  """
  with Image.open(file, formats=FORMATS) as image:
    check(image, max_pixels)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return to_array(image)


def measure(
  file: File, *, max_pixels: int = MAX_PIXELS
) -> tuple[int, int, int]:
  """(height, width, channels) that decode would give, from the header alone.

  Raises as decode does, but for what only the pixels show.
  """
  with Image.open(file, formats=FORMATS) as image:
    check(image, max_pixels)
    if image.mode in WIDE:
      raise ValueError(wide(image))
    width, height = image.size
    # A PNG without EXIF before its pixels would be decoded by getexif.
    if image.format != "PNG" or "exif" in image.info:
      turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
      height, width = (width, height) if turned else (height, width)
    return height, width, 1 if is_grey(image) else 3


def check(image: Image.Image, max_pixels: int = MAX_PIXELS) -> None:
  """Refuses what its header tells: too many pixels, or several frames."""
  width, height = image.size
  if width * height > max_pixels:
    raise ValueError(
      f"is {width}x{height}: over the limit of {max_pixels} pixels"
    )
  frames = getattr(image, "n_frames", 1)
  if frames > 1 and image.format != "MPO":  # photographs with a preview
    raise ValueError(f"has {frames} frames: keep one of them")


def fault(error: Exception) -> str:
  """Why an image cannot be used, in one line, from what decode raised."""
  if isinstance(error, Image.UnidentifiedImageError):
    text = "is corrupt (not an image)"
  elif isinstance(error, Image.DecompressionBombError):
    text = f"has too many pixels ({error})"
  elif isinstance(error, OSError):
    text = f"is corrupt ({error})"
  elif isinstance(error, ValueError):
    text = str(error)
  else:  # PIL's decoders raise anything on damaged files
    text = f"is corrupt ({type(error).__name__}: {error})"
  return " ".join(text.split())


def is_grey(image: Image.Image) -> bool:
  """Whether to_array gives one channel."""
  grey = ("1", "L", "LA", "La")
  return image.mode in grey or image.mode.startswith("I;16")


def wide(image: Image.Image) -> str:
  """Why pixels of more than 16 bits are refused."""
  return f"has 32-bit pixels (mode {image.mode}): save it as 8-bit"


def to_array(
  image: Image.Image,
) -> tuple[UInt8[np.ndarray, "h w c"], bool]:
  """Pixels of any PIL image of at most 16 bits, over white."""
  if image.mode.startswith("I;16"):
    deep = np.asarray(image).astype(np.uint16)
    grey = from_uint16(deep)
    clear = deep == image.info.get("transparency", -1)
    return np.where(clear, np.uint8(255), grey)[..., None], bool(clear.any())
  if image.mode in WIDE:
    raise ValueError(wide(image))
  channels = 1 if is_grey(image) else 3
  transparent = False
  if image.has_transparency_data:
    image = image.convert("RGBA")
    transparent = bool(np.asarray(image.getchannel("A")).min() < 255)
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image)
  pixels = np.asarray(image.convert("RGB"))
  return pixels[..., :channels], transparent


def from_uint16(
  image: UInt16[np.ndarray, "h w"],
) -> UInt8[np.ndarray, "h w"]:
  """16-bit grey to 8-bit: round(x / 257), never clipped."""
  return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)

# SPDX-License-Identifier: Apache-2.0
"""Pictures inside the page: PNG data URIs, and the size to show them at.

Small images are stored at their own size and enlarged by the browser, by a
whole number, so that every pixel stays a sharp square. Large photographs are
reduced for the page only.
"""

import base64
import dataclasses
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

TARGET = 112  # CSS pixels of the longer side, about
LARGEST = 156  # shown no larger than this


@dataclasses.dataclass(frozen=True)
class Picture:
  """An image as the page needs it; width and height in CSS pixels."""

  uri: str
  width: int
  height: int
  pixelated: bool


def from_array(
  image: UInt8[np.ndarray, "h w c"], target: int = TARGET
) -> Picture:
  """Of one, two or three channels (grey, grey and alpha, RGB), or four."""
  c = image.shape[-1]
  if c > 4:
    raise ValueError(f"an image has {c} channels: expected 1 to 4")
  picture = Image.fromarray(image[..., 0] if c == 1 else image)
  return _picture(
    picture, target, limit=max(target, LARGEST * target // TARGET)
  )


def from_png(content: bytes, target: int) -> Picture:
  """A stored PNG, shown about `target` wide."""
  with Image.open(io.BytesIO(content)) as picture:
    picture.load()
    return _picture(picture, target, limit=target)


def _picture(picture: Image.Image, target: int, limit: int = LARGEST):
  w, h = picture.size
  side = max(w, h)
  if side <= limit:
    scale = max(1, round(target / side))
    return Picture(_uri(picture), w * scale, h * scale, pixelated=True)
  if side > 2 * limit:
    picture = picture.copy()
    picture.thumbnail((2 * limit, 2 * limit), Image.Resampling.LANCZOS)
  shrink = limit / side
  return Picture(
    _uri(picture),
    max(1, round(w * shrink)),
    max(1, round(h * shrink)),
    pixelated=False,
  )


def _uri(picture: Image.Image) -> str:
  packed = io.BytesIO()
  picture.save(packed, format="PNG")
  encoded = base64.b64encode(packed.getvalue()).decode()
  return f"data:image/png;base64,{encoded}"

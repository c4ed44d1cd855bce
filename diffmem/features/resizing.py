# SPDX-License-Identifier: Apache-2.0
"""Images as pretrained networks want them: resized, cropped, normalized."""

import dataclasses

import numpy as np
from PIL import Image

from diffmem.arrays import Float, UInt8

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = (
  (0.48145466, 0.4578275, 0.40821073),
  (0.26862954, 0.26130258, 0.27577711),
)
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
FILTERS = {
  "bilinear": Image.Resampling.BILINEAR,
  "bicubic": Image.Resampling.BICUBIC,
}


@dataclasses.dataclass(frozen=True)
class Preparation:
  """How images become what a network takes.

  edge: the shorter side is resized to it; square: both sides are; crop: side
  of the square cut from the middle, None to keep all; filter: of Pillow;
  mean, std: of pixels in 0..1.
  """

  edge: int
  filter: str
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  crop: int | None = None
  square: bool = False

  def __call__(
    self, images: UInt8[np.ndarray, "b h w c"]
  ) -> Float[np.ndarray, "b height width 3"]:
    """float32; a single channel is repeated."""
    if images.shape[3] not in (1, 3):
      raise ValueError(
        f"images have {images.shape[3]} channels, expected 1 or 3"
      )
    pixels = np.repeat(images, 3 // images.shape[3], axis=3)
    made = np.stack([self._resized(image) for image in pixels])
    mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
    return (made.astype(np.float32) / 255 - mean) / std

  def _resized(
    self, image: UInt8[np.ndarray, "h w 3"]
  ) -> UInt8[np.ndarray, "height width 3"]:
    h, w = image.shape[:2]
    scale = self.edge / min(h, w)
    # The longer side is rounded down, as torchvision does.
    size = (int(w * scale + 1e-9), int(h * scale + 1e-9))
    if self.square:
      size = (self.edge, self.edge)
    x = np.asarray(Image.fromarray(image).resize(size, FILTERS[self.filter]))
    if self.crop is None:
      return x
    top = round((x.shape[0] - self.crop) / 2)
    left = round((x.shape[1] - self.crop) / 2)
    return x[top : top + self.crop, left : left + self.crop]

# SPDX-License-Identifier: Apache-2.0
"""What every source gives: uint8 images with stable ids."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Shaped, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Images in the order of their ids.

  Attributes:
    images: pixels; c is 1 or 3.
    ids: row of each image in the full source, ascending.
    labels: class of each image, 0 or more.
    captions: a text for each image, "" where there is none.
    names: file names relative to the folder; for display only.
    info: where the images come from and what was done to them.
  """

  images: UInt8[np.ndarray, "b h w c"]
  ids: Int[np.ndarray, " b"]
  labels: Int[np.ndarray, " b"] | None = None
  captions: tuple[str, ...] | None = None
  names: tuple[str, ...] | None = None
  info: dict = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    check_images(self.images)
    rows = len(self.images)
    for field in ("ids", "labels", "captions", "names"):
      value = getattr(self, field)
      if value is not None and len(value) != rows:
        raise ValueError(f"{len(value)} {field} for {rows} images")
    check_integers("ids", self.ids)
    if self.labels is not None:
      check_integers("labels", self.labels)
    if np.any(np.diff(self.ids) <= 0):
      raise ValueError("ids must ascend, each once")

  def __len__(self) -> int:
    return len(self.images)

  @property
  def num_classes(self) -> int | None:
    """Classes are 0..num_classes-1; None where there are no labels."""
    if self.labels is None:
      return None
    return len(self.info.get("class_names", ())) or int(self.labels.max()) + 1

  def rows(
    self, ids: Int[np.ndarray, " n"] | Sequence[int]
  ) -> Int[np.ndarray, " n"]:
    """Positions in `images` of these ids; ValueError names unknown ones."""
    ids = np.asarray(ids, np.int64)
    rows = np.searchsorted(self.ids, ids)
    rows = np.minimum(rows, len(self.ids) - 1)
    unknown = np.unique(ids[self.ids[rows] != ids])
    if len(unknown):
      raise ValueError(
        f"{len(unknown)} ids are not in the dataset, {unknown[0]} the first: "
        f"it has {len(self.ids)} ids, {self.ids[0]} to {self.ids[-1]}"
      )
    return rows

  def take(
    self, ids: Int[np.ndarray, " n"] | Sequence[int]
  ) -> UInt8[np.ndarray, "n h w c"]:
    """The images with these ids, in the order asked for."""
    return self.images[self.rows(ids)]


def check_images(images: np.ndarray) -> None:
  """Refuses all but a filled uint8 [b h w c] array of 1 or 3 channels."""
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise ValueError(
      f"images have shape {images.shape}: expected [b h w c], c = 1 or 3"
    )
  if images.dtype != np.uint8:
    raise ValueError(f"images are {images.dtype}: expected uint8")
  if 0 in images.shape:
    raise ValueError(f"no images: their array has shape {images.shape}")


def check_integers(what: str, values: np.ndarray) -> None:
  """Refuses all but integers [b] in 0..2**32-1 (random keys fold them in)."""
  if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
    raise ValueError(
      f"{what} are {values.dtype} of shape {values.shape}: expected integers, "
      "one for each image"
    )
  outside = values[(values < 0) | (values >= 2**32)]
  if len(outside):
    raise ValueError(f"{what} must be in 0..2**32-1, but one is {outside[0]}")


def fingerprint(*arrays: Shaped[np.ndarray, "..."]) -> str:
  """sha256 of the values, types and shapes of arrays, in this order."""
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def duplicate_of(images: UInt8[np.ndarray, "b h w c"]) -> Int[np.ndarray, " b"]:
  """For each image, the first row whose pixels are the same (often itself)."""
  first: dict[bytes, int] = {}
  return np.array(
    [
      first.setdefault(hashlib.sha256(image.tobytes()).digest(), row)
      for row, image in enumerate(images)
    ],
    np.int64,
  )

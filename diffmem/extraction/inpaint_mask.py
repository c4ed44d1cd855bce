# SPDX-License-Identifier: Apache-2.0
"""Which pixels of a target the attacker knows.

A mask is a name, the half of the image that is hidden, or the path of a black
and white picture of the images' size, in which what is hidden is white.
"""

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffmem import workdir
from diffmem.arrays import Bool

HALVES = ("left", "right", "top", "bottom")


def known(mask: str, shape: tuple[int, ...]) -> Bool[np.ndarray, "h w 1"]:
  """True where the attacker sees the target.

  Args:
    mask: a name in HALVES, or a path.
    shape: (h, w, c) of the images.

  Raises:
    FileNotFoundError: neither a name nor a file.
    ValueError: the picture has another size or greys, or hides all or nothing.
  """
  h, w = shape[:2]
  if mask in HALVES:
    hidden = np.zeros((h, w), bool)
    part = {
      "left": np.s_[:, : w // 2],
      "right": np.s_[:, w - w // 2 :],
      "top": np.s_[: h // 2],
      "bottom": np.s_[h - h // 2 :],
    }
    hidden[part[mask]] = True
  else:
    hidden = _read(mask, (h, w))
  return check(~hidden[..., None], shape, str(mask))


def check(
  known: Bool[np.ndarray, "h w 1"], shape: tuple[int, ...], name: str
) -> Bool[np.ndarray, "h w 1"]:
  """The mask itself; ValueError unless it fits, hides and shows something."""
  if known.shape != (*shape[:2], 1):
    raise ValueError(
      f"mask {name} is {_size(known.shape)}, the images are {_size(shape)}: "
      "give a mask of their size"
    )
  if known.all() or not known.any():
    what, least = ("nothing", "hide") if known.all() else ("all", "show")
    raise ValueError(
      f"mask {name} hides {what} of the {_size(shape)} pixels: {least} at "
      "least one"
    )
  return known


def _read(file: str, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
  path = workdir.path(file)
  if not path.is_file():
    raise FileNotFoundError(
      f"mask {file!r} is no file, and none of the halves {', '.join(HALVES)}"
    )
  try:
    with path.open("rb") as f, Image.open(f) as picture:
      levels = np.asarray(picture.convert("L"))
  except (UnidentifiedImageError, OSError) as e:
    raise ValueError(f"mask {file} cannot be read as a picture ({e})") from e
  if levels.shape != size:
    raise ValueError(
      f"mask {file} is {_size(levels.shape)}, the images are {_size(size)}: "
      "give a mask of their size"
    )
  greys = np.setdiff1d(levels, [0, 255])
  if len(greys):
    raise ValueError(
      f"mask {file} has the grey level {greys[0]}: expected black (0, known) "
      "and white (255, hidden) alone; save it as PNG"
    )
  return levels == 255


def _size(shape: tuple[int, ...]) -> str:
  return f"{shape[1]} x {shape[0]}"

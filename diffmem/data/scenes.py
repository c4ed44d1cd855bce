# SPDX-License-Identifier: Apache-2.0
"""Source `scenes[:CAPTIONSxEACH]`: small captioned scenes, embedded.

A scene is 16 x 16 grey pixels with one to four of scikit-learn's handwritten
digits, each in a quarter of its own:

    "a three top left, a seven bottom right"

There are CAPTIONS such texts (200 unless given), and of each text EACH images
(10 unless given) by different hands, so that a text alone does not say which
image is meant: as in collections of real captions, and unlike a class label.
Image j of text i has id i * EACH + j. Everything is drawn from fixed streams:
the scenes are the same for everybody.
"""

import re

import numpy as np
from jaxtyping import UInt8
from sklearn import datasets

from diffmem.data.dataset import Dataset
from diffmem.data.images import Fit
from diffmem.data.streams import permutation, words

PLACES = ("top left", "top right", "bottom left", "bottom right")
DIGITS = (
  "zero",
  "one",
  "two",
  "three",
  "four",
  "five",
  "six",
  "seven",
  "eight",
  "nine",
)
SIDE = 8  # pixels of a digit
SIZES = (200, 10)
MOST = (5000, 150)  # of 14,640 texts; no digit has fewer than 174 images
Layout = tuple[tuple[int, int], ...]  # (place, digit), places ascending


def scenes(argument: str, fit: Fit, data_dir: object) -> Dataset:
  """Composes the scenes; nothing is read from disk but scikit-learn's own."""
  captions, each = _sizes(argument)
  levels, labels = datasets.load_digits(return_X_y=True)
  pixels = np.round(np.asarray(levels) * (255 / 16)).astype(np.uint8)
  hands = [
    pixels[np.asarray(labels) == digit].reshape(-1, SIDE, SIDE)
    for digit in range(10)
  ]
  drawn = layouts(captions)
  images = [
    fit(image)
    for number, layout in enumerate(drawn)
    for image in _compose(number, layout, hands, each)
  ]
  return Dataset(
    images=np.stack(images),
    ids=np.arange(len(images)),
    captions=tuple(caption(layout) for layout in drawn for _ in range(each)),
  )


def layouts(count: int) -> list[Layout]:
  """Distinct layouts: how many digits, where, and which, each at random."""
  found: dict[Layout, None] = {}
  turn = 0
  while len(found) < count:
    size, *digits = words(5, 0, "layout", turn).tolist()
    places = sorted(permutation(4, 0, "places", turn)[: 1 + size % 4].tolist())
    found[tuple((place, digits[place] % 10) for place in places)] = None
    turn += 1
  return list(found)


def caption(layout: Layout) -> str:
  """The text of a layout."""
  return ", ".join(f"a {DIGITS[digit]} {PLACES[at]}" for at, digit in layout)


def _compose(
  number: int,
  layout: Layout,
  hands: list[UInt8[np.ndarray, "_ h w"]],
  each: int,
) -> UInt8[np.ndarray, "b side side 1"]:
  """The images of a layout; no two have any digit by the same hand."""
  out = np.zeros((each, 2 * SIDE, 2 * SIDE, 1), np.uint8)
  for place, digit in layout:
    own = hands[digit]
    chosen = permutation(len(own), 0, "hand", number, place)[:each]
    top, left = SIDE * (place // 2), SIDE * (place % 2)
    out[:, top : top + SIDE, left : left + SIDE, 0] = own[chosen]
  return out


def _sizes(argument: str) -> tuple[int, int]:
  """(captions, images of each)."""
  if not argument:
    return SIZES
  match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", argument)
  captions, each = (int(match[1]), int(match[2])) if match else (0, 0)
  if not (0 < captions <= MOST[0] and 0 < each <= MOST[1]):
    raise ValueError(
      f"source 'scenes:{argument}': expected scenes or scenes:CAPTIONSxEACH, "
      f"say scenes:200x10, at most {MOST[0]}x{MOST[1]}"
    )
  return captions, each

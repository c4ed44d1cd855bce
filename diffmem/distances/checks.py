# SPDX-License-Identifier: Apache-2.0
"""What every search refuses before it starts, each in one line."""

import numpy as np

ROWS = 4096  # read at once


def check_images(name: str, images) -> None:
  """ValueError unless images are a whole, non-empty uint8 array [n ...]."""
  check_array(name, images, "uint8")
  if images.dtype != np.uint8:
    raise ValueError(
      f"{name} have dtype {images.dtype}, expected uint8 (pixels 0..255): "
      "convert them, as with diffmem.arrays.to_uint8 for values in [-1, 1]"
    )
  if len(images.shape) < 2 or 0 in images.shape:
    raise ValueError(
      f"{name} have shape {tuple(images.shape)}, expected at least one image "
      "[n ...]: check that the set is not empty"
    )
  check_complete(name, images)


def check_array(name: str, values, dtype: str) -> None:
  """ValueError unless values have a shape and a dtype."""
  if not hasattr(values, "dtype") or not hasattr(values, "shape"):
    raise ValueError(
      f"{name} is a {type(values).__name__}, expected a {dtype} array "
      "[n ...]: pass numpy.asarray(...)"
    )


def check_complete(name: str, values) -> None:
  """ValueError for a store that is still being written."""
  complete = getattr(values, "complete", None)
  if callable(complete) and not complete():
    raise ValueError(
      f"{name} are not complete: {getattr(values, 'path', 'the store')} is "
      "still being written; finish the stage that writes it, then search"
    )


def check_vectors(name: str, values, *, zero: bool) -> float:
  """The largest norm; ValueError unless values are usable float32 [n d].

  zero: whether a vector may be all zeros.
  """
  check_array(name, values, "float32")
  if values.dtype != np.float32:
    raise ValueError(
      f"{name} have dtype {values.dtype}, expected float32 vectors: convert "
      "them with .astype(numpy.float32)"
    )
  if len(values.shape) != 2 or 0 in values.shape:
    raise ValueError(
      f"{name} have shape {tuple(values.shape)}, expected at least one vector "
      "[n d]: check that the set is not empty"
    )
  check_complete(name, values)
  largest = 0.0
  for start in range(0, values.shape[0], ROWS):
    rows = np.asarray(values[start : start + ROWS])
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
      raise ValueError(
        f"{name} hold NaN or infinite values, first in row {start + bad[0]}: "
        "drop those rows or embed them again"
      )
    if not zero and norms.min() == 0:
      raise ValueError(
        f"{name} hold a vector of zeros in row {start + np.argmin(norms)}, "
        "which has no cosine: drop it or use metric l2"
      )
    largest = max(largest, float(norms.max()))
  return largest


def check_same_shape(
  queries: tuple, references: tuple, what: str = "images"
) -> None:
  """ValueError unless queries and references have rows of one shape."""
  if tuple(queries) != tuple(references):
    raise ValueError(
      f"queries are {what} of shape {tuple(queries)} but references "
      f"{tuple(references)}, expected one shape: resize or crop one of them"
      if what == "images"
      else f"queries are {what} of {queries[0]} values but references of "
      f"{references[0]}, expected one length: embed both with one model"
    )


def check_k(k: int, count: int) -> None:
  """ValueError unless 1 <= k <= count."""
  if not 1 <= k <= count:
    raise ValueError(
      f"k = {k} neighbours, expected 1 to {count}, the number of references: "
      "lower k or add references"
    )


def check_positive(name: str, value: int) -> None:
  """ValueError unless value >= 1."""
  if value < 1:
    raise ValueError(f"{name} = {value}, expected at least 1")


def check_choice(name: str, value: str, choices) -> None:
  """ValueError unless value is one of the choices."""
  if value not in choices:
    raise ValueError(
      f"{name} = {value!r}, expected one of {', '.join(sorted(choices))}"
    )

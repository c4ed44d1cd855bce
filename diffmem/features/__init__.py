# SPDX-License-Identifier: Apache-2.0
"""What copy detection sees of an image: embeddings, with one protocol."""

import inspect
from typing import Any

from diffmem.features import (
  classifier,
  descriptor,
  embeddings_file,
  inception,
  pixels,
  sscd,
  torch_models,
)
from diffmem.features.embeddings_file import rows
from diffmem.features.protocol import Features

FEATURES = {
  "pixels": pixels.create,
  "descriptor": descriptor.create,
  "classifier": classifier.create,
  "file": embeddings_file.create,
  "clip": torch_models.clip,
  "dinov2": torch_models.dinov2,
  "sscd": sscd.create,
  "inception": inception.create,
}

__all__ = ["FEATURES", "Features", "create", "rows"]


def create(name: str, **options: Any) -> Features:
  """Features by name; options: of the function in FEATURES.

  Raises ValueError for another name or option.
  """
  if name not in FEATURES:
    raise ValueError(
      f"features.name = {name!r}, expected one of {', '.join(FEATURES)}"
    )
  known = inspect.signature(FEATURES[name]).parameters
  for option in options:
    if option not in known:
      raise ValueError(
        f"features {name!r} have no option {option!r}, expected "
        f"{', '.join(known) or 'none'}"
      )
  required = [k for k, p in known.items() if p.default is p.empty]
  missing = [k for k in required if k not in options]
  if missing:
    raise ValueError(
      f"features {name!r} need {missing[0]!r}: set features.{missing[0]}"
    )
  return FEATURES[name](**options)

# SPDX-License-Identifier: Apache-2.0
"""What copy detection sees of an image: a vector, and how to compare two."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffmem.arrays import Float, UInt8

METRICS = ("cosine", "l2")
VALUES = 2**24  # pixels that are on the device at once

Embed = Callable[[UInt8[np.ndarray, "b h w c"]], Float[np.ndarray, "b d"]]


@dataclasses.dataclass(frozen=True)
class Features:
  """A named embedding of images.

  Attributes:
    name: key of `FEATURES`.
    embed: uint8 images [b h w c] -> float32 vectors [b d]; each row depends on
      its image alone.
    metric: "cosine" or "l2", of `distances.nearest_vectors`.
    info: plain values that decide the vectors: options, the sha256 of weights.
    mirror: whether images may also be embedded mirrored.
  """

  name: str
  embed: Embed
  metric: str
  info: dict[str, Any]
  mirror: bool = True

  def __post_init__(self):
    if self.metric not in METRICS:
      raise ValueError(
        f"metric = {self.metric!r}, expected one of {', '.join(METRICS)}"
      )


def by_blocks(
  fn: Callable, images: UInt8[np.ndarray, "b h w c"]
) -> Float[np.ndarray, "b d"]:
  """Applies fn to large images some at a time, so that they fit in memory."""
  step = max(1, VALUES // images[0].size)
  blocks = (images[i : i + step] for i in range(0, len(images), step))
  return np.concatenate([np.asarray(fn(jnp.asarray(x))) for x in blocks])

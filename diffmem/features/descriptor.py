# SPDX-License-Identifier: Apache-2.0
"""A descriptor of copies that needs no training and no weights.

An image is resized to SIDE x SIDE. With g its mean over channels, central
differences (g_x, g_y), m = |(g_x, g_y)| and the angle a in 0..BINS around the
circle,

  e[i, j, b] = sum over pixels of m * tent(a - b) * tent_i(y) * tent_j(x)

with tents over neighbouring angles and neighbouring of CELLS x CELLS cells:
histograms of oriented gradients (Dalal & Triggs 2005), which move little when
an edge does. Square roots (as in RootSIFT, Arandjelovic & Zisserman 2012) keep
a few strong edges from deciding alone. Beside it stand colours: the mean of
each cell, less the mean of the image. Both parts are scaled to one length,
colours to COLOUR of it, and a constant keeps flat images from having no
direction:

  v = [sqrt(e) / (|sqrt(e)| + EPS), COLOUR c / (|c| + EPS), CONSTANT],

compared by cosine. Brightness and contrast drop out.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import Float, UInt8
from diffmem.features.protocol import Features, by_blocks

SIDE = 32
CELLS = 8
BINS = 8
COLOUR = 0.5
CONSTANT = 0.05
EPS = 0.05


def create() -> Features:
  """Oriented gradients and colours of 8 x 8 cells."""
  info = {
    "side": SIDE,
    "cells": CELLS,
    "bins": BINS,
    "colour": COLOUR,
    "constant": CONSTANT,
    "eps": EPS,
  }
  return Features("descriptor", embed, "cosine", info)


def embed(images: UInt8[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b d"]:
  """float32 vectors of CELLS^2 * (BINS + c) + 1 values."""
  return by_blocks(_describe, images)


@jax.jit
def _describe(
  images: UInt8[jax.Array, "b h w c"],
) -> Float[jax.Array, "b d"]:
  b, _, _, c = images.shape
  x = images.astype(jnp.float32) / 255
  x = jax.image.resize(x, (b, SIDE, SIDE, c), "linear")
  edges = jnp.sqrt(_edges(x.mean(axis=3)).reshape(b, -1))
  part = SIDE // CELLS
  colours = x.reshape(b, CELLS, part, CELLS, part, c).mean(axis=(2, 4))
  colours = colours.reshape(b, -1)
  colours -= colours.mean(axis=1, keepdims=True)
  constant = jnp.full((b, 1), CONSTANT, jnp.float32)
  return jnp.concatenate(
    [_scaled(edges), COLOUR * _scaled(colours), constant], axis=1
  )


def _edges(
  grey: Float[jax.Array, "b s s"],
) -> Float[jax.Array, "b cells cells bins"]:
  """Histograms of gradients, in radians / (2 pi / BINS)."""
  right = jnp.pad(grey[:, :, 2:] - grey[:, :, :-2], ((0, 0), (0, 0), (1, 1)))
  down = jnp.pad(grey[:, 2:] - grey[:, :-2], ((0, 0), (1, 1), (0, 0)))
  angle = jnp.arctan2(down, right) * (BINS / (2 * np.pi))
  bins = jnp.arange(BINS, dtype=jnp.float32)
  away = jnp.abs(angle[..., None] - bins[None, None, None]) % BINS
  near = jnp.maximum(0, 1 - jnp.minimum(away, BINS - away))
  strength = jnp.hypot(right, down)[..., None] * near
  tents = jnp.asarray(_tents())
  return jnp.einsum("nhwb,ih,jw->nijb", strength, tents, tents)


@functools.lru_cache
def _tents() -> Float[np.ndarray, "cells side"]:
  """Weight of each row of pixels in each cell."""
  place = (np.arange(SIDE) + 0.5) / SIDE * CELLS - 0.5
  away = np.abs(place[None] - np.arange(CELLS)[:, None])
  return np.maximum(0, 1 - away).astype(np.float32)


def _scaled(x: Float[jax.Array, "b d"]) -> Float[jax.Array, "b d"]:
  return x / (jnp.linalg.norm(x, axis=1, keepdims=True) + EPS)

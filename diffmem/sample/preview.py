# SPDX-License-Identifier: Apache-2.0
"""Pictures while training: a grid of samples, the same noise each time."""

import io
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from diffmem import arrays, keys, workdir
from diffmem.arrays import UInt8
from diffmem.denoiser import Denoiser, gans
from diffmem.sample import run


def hook(*, seed: int, sample: dict, count: int) -> Callable:
  """Makes a preview of training; see `diffmem.train.run`.

  Args:
    seed: of the noise.
    sample: the config section of sampling, which the pictures follow.
    count: how many images in a grid; 0 for no pictures.
  """

  def prepare(
    build: Callable[[Any], Denoiser | gans.Trained],
    folder: os.PathLike,
    conditions: Any = None,
  ):
    made = None

    def draw(step: int, params: Any) -> None:
      nonlocal made
      if count == 0:
        return
      if made is None:
        model = build(params)
        if isinstance(model, gans.Trained):
          made = jax.jit(model.draw)
        else:
          made = jax.jit(run.generator(model, **sample, conditions=conditions))
      key = keys.stream(keys.root(seed), "preview")
      x = made(params, np.arange(count, dtype=np.int32), key)
      save_grid(
        np.asarray(arrays.to_uint8(x)),
        workdir.path(folder) / f"step_{step:08d}.png",
      )

    return draw

  return prepare


def save_grid(images: UInt8[np.ndarray, "b h w c"], file: os.PathLike) -> None:
  """Writes images as one PNG, row by row, a pixel of grey between them."""
  b, h, w, c = images.shape
  columns = math.ceil(math.sqrt(b))
  rows = math.ceil(b / columns)
  grid = np.full((rows * (h + 1) - 1, columns * (w + 1) - 1, c), 128, np.uint8)
  for i, image in enumerate(images):
    y, x = divmod(i, columns)
    grid[y * (h + 1) :, x * (w + 1) :][:h, :w] = image
  picture = Image.fromarray(grid[..., 0] if c == 1 else grid)
  file = workdir.path(file)
  file.parent.mkdir(parents=True, exist_ok=True)
  content = io.BytesIO()
  picture.save(content, format="PNG")
  workdir.write_bytes(file, content.getvalue())

# SPDX-License-Identifier: Apache-2.0
"""The weights that a finished training left, by the shapes of its network."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffmem import checkpoint, mesh, workdir


def restore(
  root: str | os.PathLike, init: Callable[..., Any], step: int
) -> Any:
  """What later stages read of the checkpoint of a step, on local devices.

  Args:
    root: the workdir.
    init: key -> weights of the same shapes.
    step: of the checkpoint.

  Raises:
    ValueError: the checkpoint is damaged, or a weight is not finite.
  """
  shapes = jax.eval_shape(init, jax.random.key(0))
  here = mesh.replicated(mesh.local_mesh())
  folder = workdir.path(root) / "train" / "checkpoints"
  with checkpoint.Checkpointer(folder, clean=False) as checkpointer:
    parts = checkpointer.restore(
      {"ema": checkpoint.abstract(shapes, here)}, step
    )
  _check_finite(parts["ema"], folder)
  return parts["ema"]


def _check_finite(params: Any, folder: os.PathLike) -> None:
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    bad = int((~np.isfinite(leaf)).sum())
    if bad:
      raise ValueError(
        f"{folder}: {bad} of {leaf.size} weights of "
        f"{jax.tree_util.keystr(path)} are not finite; train again"
      )

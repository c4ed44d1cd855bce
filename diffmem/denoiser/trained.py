# SPDX-License-Identifier: Apache-2.0
"""A denoiser from a workdir: the model's saved config, never typed again."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from diffmem import checkpoint, mesh, models, workdir
from diffmem.denoiser.protocol import Denoiser
from diffmem.diffusion import schedules


def network(shape: Sequence[int], config: dict, diffusion: dict):
  """The network of the config sections `models` and `diffusion`."""
  h, w, c = shape
  return models.create(
    **config, shape=(h, w, c), learned_variance=_learned(diffusion)
  )


def build(
  shape: Sequence[int], config: dict, diffusion: dict, params: Any
) -> Denoiser:
  """The denoiser of the same sections with these weights."""
  model = network(shape, config, diffusion)
  return Denoiser(
    apply=model.apply,
    params=params,
    schedule=schedules.create(**diffusion["schedule"]),
    shape=model.shape,
    null_cond=model.null_cond,
    num_classes=model.num_classes,
    low=model.low,
    learned_variance=_learned(diffusion),
    prediction=diffusion["prediction"],
  )


def load(root: str | os.PathLike, *, step: int | None = None) -> Denoiser:
  """The EMA weights of a finished training.

  Args:
    root: the workdir.
    step: of an earlier checkpoint, one of `steps`; None for the last.

  Raises:
    FileNotFoundError: the train stage has not finished.
    ValueError: the checkpoint is damaged, or a weight is not finite.
  """
  meta = workdir.require(root, "train")
  config = meta["config"]
  sections = config["models"], config["diffusion"]
  model = network(meta["shape"], *sections)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  here = mesh.replicated(mesh.local_mesh())
  folder = workdir.path(root) / "train" / "checkpoints"
  with checkpoint.Checkpointer(folder, clean=False) as checkpointer:
    parts = checkpointer.restore(
      {"ema": checkpoint.abstract(shapes, here)},
      config["train"]["steps"] if step is None else step,
    )
  _check_finite(parts["ema"], folder)
  return build(meta["shape"], *sections, parts["ema"])


def steps(root: str | os.PathLike) -> list[int]:
  """The steps that checkpoints are kept of, ascending."""
  folder = workdir.path(root) / "train" / "checkpoints"
  if not folder.exists():
    return []
  with checkpoint.Checkpointer(folder, clean=False) as checkpointer:
    return checkpointer.steps()


def _learned(diffusion: dict) -> bool:
  return diffusion["loss"] == "hybrid"


def _check_finite(params: Any, folder: os.PathLike) -> None:
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    bad = int((~np.isfinite(leaf)).sum())
    if bad:
      raise ValueError(
        f"{folder}: {bad} of {leaf.size} weights of "
        f"{jax.tree_util.keystr(path)} are not finite; train again"
      )

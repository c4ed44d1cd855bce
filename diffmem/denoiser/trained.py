# SPDX-License-Identifier: Apache-2.0
"""A denoiser from a workdir: the model's saved config, never typed again."""

import os
from collections.abc import Sequence
from typing import Any

from diffmem import checkpoint, models, workdir
from diffmem.denoiser import gans, weights
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
    ValueError: it is of a GAN, the checkpoint is damaged, or a weight is not
      finite.
  """
  meta = workdir.require(root, "train")
  config = meta["config"]
  if gans.is_gan(config):
    raise ValueError(
      f"{workdir.path(root) / 'train'} is of a GAN "
      f"({config['models']['family']}), which denoises nothing: sample, "
      "distances, extraction, report, and of membership the attacks "
      "'discriminator' and 'nearest' are for GANs, the rest is for denoisers"
    )
  sections = config["models"], config["diffusion"]
  model = network(meta["shape"], *sections)
  params = weights.restore(
    root, model.init, config["train"]["steps"] if step is None else step
  )
  return build(meta["shape"], *sections, params)


def steps(root: str | os.PathLike) -> list[int]:
  """The steps that checkpoints are kept of, ascending."""
  folder = workdir.path(root) / "train" / "checkpoints"
  if not folder.exists():
    return []
  with checkpoint.Checkpointer(folder, clean=False) as checkpointer:
    return checkpointer.steps()


def _learned(diffusion: dict) -> bool:
  return diffusion["loss"] == "hybrid"

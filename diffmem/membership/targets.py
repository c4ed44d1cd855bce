# SPDX-License-Identifier: Apache-2.0
"""What attacks are aimed at: a denoiser, or the discriminator of a GAN.

`Critic` gives a discriminator the fields by which signals are computed of a
denoiser. It has one time, 0, and predicts no noise.
"""

import os
from typing import Any

from diffmem import workdir
from diffmem.denoiser import Denoiser, gans, trained
from diffmem.diffusion import schedules


class Critic(Denoiser):
  """A discriminator: apply(params, x, t, cond) -> logits [b]; t is ignored."""

  def predict(self, params: Any, x_t: Any, t: Any, cond: Any = None) -> Any:
    """Raises: there is nothing to predict."""
    raise ValueError(
      "a discriminator predicts no noise: attack it by 'discriminator'"
    )


def critic(model: gans.Trained) -> Critic:
  """The discriminator of a GAN."""

  def apply(params, x, t, cond):
    del t
    return model.gan.discriminator.apply(params, x, cond)[0]

  return Critic(
    schedule=schedules.linear(1),
    shape=model.gan.shape,
    apply=apply,
    params=model.params["discriminator"],
    num_classes=model.gan.num_classes,
  )


def load(root: str | os.PathLike, **step: int) -> Denoiser:
  """The denoiser of a finished training, or its discriminator.

  `step` is of an earlier checkpoint; see `trained.load`.

  Raises:
    FileNotFoundError: the train stage has not finished.
    ValueError: the checkpoint is damaged, or a weight is not finite.
  """
  if gans.is_gan(workdir.require(root, "train")["config"]):
    return critic(gans.load(root, **step))
  return trained.load(root, **step)


def kind(config: dict) -> str:
  """What a config, or that of a meta.json, is of; as in `Attack.of`."""
  return "GAN" if gans.is_gan(config) else "denoiser"

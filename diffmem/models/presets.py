# SPDX-License-Identifier: Apache-2.0
"""Knobs of published networks, as dicts for `models.create`.

  model = models.create(shape=(32, 32, 3), **presets.ddpm_cifar10())

Sources: Ho et al. 2020, arXiv:2006.11239, appendix B; Nichol and Dhariwal
2021, arXiv:2102.09672, with their repository's defaults.
"""

from typing import Any


def ddpm_cifar10(**over: Any) -> dict[str, Any]:
  """Ho et al.'s CIFAR-10 network: 35,746,307 parameters at 32x32x3."""
  return (
    dict(
      name="unet",
      learned_variance=False,
      width=128,
      multipliers=(1, 2, 2, 2),
      blocks=2,
      attention=(16,),
      heads=1,
      middle="attention",
      dropout=0.1,
      scale_shift=False,
      groups=32,
      time_scale=1.0,
      conventions="ho",
    )
    | over
  )


def ddpm_cifar10_secmi(**over: Any) -> dict[str, Any]:
  """The same network as the literature on membership trains it.

  That of github.com/w86763777/pytorch-ddpm, which the published weights of
  SecMI (Duan et al. 2023, arXiv:2302.01316) and its successors are of; see
  `models.convert`.
  """
  return ddpm_cifar10(conventions="torch") | over


def iddpm_cifar10(*, steps: int = 4000, **over: Any) -> dict[str, Any]:
  """Improved DDPM's CIFAR-10 network: 52,546,438 parameters at 32x32x3.

  `steps` is the length of the schedule; the embedding sees t * 1000 / steps.
  """
  return (
    dict(
      name="unet",
      learned_variance=True,
      width=128,
      multipliers=(1, 2, 2, 2),
      blocks=3,
      attention=(16, 8),
      heads=4,
      middle="attention",
      dropout=0.3,
      scale_shift=True,
      groups=32,
      time_scale=1000.0 / steps,
      conventions="torch",
    )
    | over
  )


def digits(**over: Any) -> dict[str, Any]:
  """A small U-Net for 8x8 images: 8x8 -> 4x4 with a dense middle."""
  return (
    dict(
      name="unet",
      learned_variance=False,
      width=16,
      multipliers=(1, 2),
      blocks=1,
      attention=(),
      heads=1,
      middle="dense",
      dropout=0.0,
      scale_shift=False,
      groups=8,
      time_scale=1.0,
      conventions="ho",
    )
    | over
  )


def digits_mlp(**over: Any) -> dict[str, Any]:
  """A residual MLP for 8x8 images."""
  return (
    dict(
      name="mlp",
      learned_variance=False,
      width=256,
      blocks=4,
      dropout=0.0,
      time_scale=1.0,
    )
    | over
  )

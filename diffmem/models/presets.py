# SPDX-License-Identifier: Apache-2.0
"""Knobs of published networks, as dicts for `models.create`.

  model = models.create(shape=(32, 32, 3), **presets.ddpm_cifar10())

Sources: Ho et al. 2020, arXiv:2006.11239, appendix B; Nichol and Dhariwal
2021, arXiv:2102.09672, with their repository's defaults; Saharia et al. 2022,
arXiv:2205.11487, appendix F, for Imagen's, whose captions are 128 tokens of
the 4,096 numbers of T5-XXL.
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


def imagen_base(**over: Any) -> dict[str, Any]:
  """Imagen's 64x64 base: 1,944,341,507 parameters ("2B" in the paper).

  Its width, multipliers, blocks and attention are the paper's; that it keeps
  an activation of each block, and 2,048 numbers of a token, are choices of
  ours.
  """
  return (
    _imagen(
      width=512,
      multipliers=(1, 2, 3, 4),
      blocks=(3, 3, 3, 3),
      attention=(32, 16, 8),
      cross=(32, 16, 8),
      context=2048,
      skips="block",
      middle=True,
    )
    | over
  )


def imagen_256(**over: Any) -> dict[str, Any]:
  """Imagen's 64 -> 256 stage: 566,930,435 parameters ("600M" in the paper).

  Channels, blocks and attention are the paper's; see `models.imagen` for what
  its text leaves open.
  """
  return _imagen(low=64, halve_first=True, attention=(16,), cross=(16,)) | over


def imagen_1024(**over: Any) -> dict[str, Any]:
  """Imagen's 256 -> 1024 stage: 499,723,267 parameters.

  The paper says 400M, and gives the blocks that stand here; without the
  attention to the text, which it has too, they are 449M.
  """
  return _imagen(low=256, halve_first=True, cross=(64,)) | over


def imagen_small(
  *, text: tuple[int, int] | None, low: int | None = None, **over: Any
) -> dict[str, Any]:
  """For CPUs: an 8x8 base, or with low=8 the stage that makes 16x16 of it."""
  return (
    _imagen(
      text=text,
      low=low,
      halve_first=low is not None,
      width=32,
      multipliers=(1, 2),
      blocks=(1, 2),
      attention=(4,),
      cross=(8, 4) if text else (),
      context=32,
      head_channels=16,
      groups=8,
    )
    | over
  )


def _imagen(**over: Any) -> dict[str, Any]:
  """All knobs, at the values of the efficient U-Net of 64 -> 256 -> 1024."""
  return (
    dict(
      name="imagen",
      learned_variance=False,
      text=(128, 4096),
      low=None,
      width=128,
      multipliers=(1, 2, 4, 8),
      blocks=(2, 4, 8, 8),
      halve_first=False,
      attention=(),
      cross=(),
      context=512,
      head_channels=64,
      skips="level",
      middle=False,
      dropout=0.0,
      groups=32,
      time_scale=1.0,
    )
    | over
  )

# SPDX-License-Identifier: Apache-2.0
"""The stages of a cascade: which sections train which of its networks.

A base makes images of height `upsamplers[0]["low"]`, stage i enlarges images
of height low to height `side` (Ho et al. 2022, arXiv:2106.15282), and the last
side is that of the data. Each trains alone, on the training images averaged
down to its own size:

  the base                  <root>/train
  super-resolution stage i  <root>/upsamplers/<i>/train    (data.upsampler=i)

An entry of the config section `upsamplers` is

  low, side     heights that it starts from and makes
  augmentation  (first, last): levels of noise on its input, last excluded
  models, diffusion, train   what differs from the sections of the base
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from diffmem.data import Dataset

KEYS = {"low", "side", "augmentation", "models", "diffusion", "train"}


@dataclasses.dataclass(frozen=True)
class Sections:
  """What trains one network.

  Attributes:
    models, diffusion, train: the config sections.
    adversarial: in the place of diffusion, of a GAN.
    height: of the images that it makes; None for that of the data.
    augmentation: levels of noise, of super-resolution; or None.
  """

  models: dict
  diffusion: dict | None
  train: dict
  height: int | None = None
  augmentation: tuple[int, int] | None = None
  adversarial: dict | None = None

  @property
  def config(self) -> dict[str, Any]:
    """The sections by name, as far as there are any."""
    found: dict[str, Any] = {"models": self.models, "train": self.train}
    for name in ("diffusion", "adversarial", "augmentation"):
      if getattr(self, name) is not None:
        found[name] = getattr(self, name)
    return found


def sections(
  data: dict,
  models: dict,
  diffusion: dict | None,
  train: dict,
  upsamplers: Sequence[dict],
  adversarial: dict | None = None,
) -> Sections:
  """Those of the base, or of the stage that data.upsampler names.

  Raises:
    ValueError: there is no such stage, its sections have unknown keys, sides
      or levels do not fit, or a network is to be both a denoiser and a GAN.
  """
  number = data.get("upsampler")
  if adversarial is not None or diffusion is None:
    if adversarial is None or diffusion is not None:
      raise ValueError(
        "give one of the sections 'diffusion', of a denoiser, and "
        "'adversarial', of a GAN: the config has "
        f"{'neither' if diffusion is None else 'both'}"
      )
    if upsamplers or number is not None:
      raise ValueError("a GAN is no part of a cascade: leave out upsamplers")
    return Sections(models, None, train, adversarial=adversarial)
  check(upsamplers, diffusion)
  if number is None:
    low = upsamplers[0]["low"] if upsamplers else None
    return Sections(models, diffusion, train, low)
  if not 0 <= number < len(upsamplers):
    raise ValueError(
      f"data.upsampler={number}: the config has {len(upsamplers)} upsamplers"
      + (f", 0 to {len(upsamplers) - 1}" if upsamplers else "")
    )
  stage = upsamplers[number]
  first, last = stage["augmentation"]
  return Sections(
    {**models, **stage["models"], "low": stage["low"]},
    {**diffusion, **stage["diffusion"]},
    {**train, **stage["train"]},
    stage["side"],
    (int(first), int(last)),
  )


def check(upsamplers: Sequence[dict], diffusion: dict) -> None:
  """ValueError unless each stage goes on from the one before it."""
  for i, stage in enumerate(upsamplers):
    where = f"upsamplers[{i}]"
    if set(stage) != KEYS:
      raise ValueError(
        f"{where} has the keys {', '.join(sorted(stage))}; expected "
        f"{', '.join(sorted(KEYS))}"
      )
    low, side = stage["low"], stage["side"]
    if not 1 <= low < side or side % low:
      raise ValueError(
        f"{where}: side={side} must be a whole multiple of low={low}"
      )
    if i and low != upsamplers[i - 1]["side"]:
      raise ValueError(
        f"{where}.low={low}, but the stage before it makes images of side "
        f"{upsamplers[i - 1]['side']}"
      )
    steps = {**diffusion, **stage["diffusion"]}["schedule"]["steps"]
    levels = tuple(stage["augmentation"])
    if len(levels) != 2 or not 0 <= levels[0] < levels[1] <= steps:
      raise ValueError(
        f"{where}.augmentation={levels}: expected (first, last) with "
        f"0 <= first < last <= {steps}, the steps of its schedule"
      )


def check_side(upsamplers: Sequence[dict], dataset: Dataset) -> None:
  """ValueError unless the last stage makes images of the data's height."""
  height = dataset.images.shape[1]
  if upsamplers and upsamplers[-1]["side"] != height:
    raise ValueError(
      f"the last of the upsamplers makes images of side "
      f"{upsamplers[-1]['side']}, the data have {height}: set data.resize, or "
      "its side"
    )


def reduced_shape(
  shape: Sequence[int], height: int | None
) -> tuple[int, int, int]:
  """(h, w, c) of images of `shape` at another height."""
  h, w, c = shape
  return (h, w, c) if height is None else (height, w * height // h, c)

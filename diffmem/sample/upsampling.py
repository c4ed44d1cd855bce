# SPDX-License-Identifier: Apache-2.0
"""Trained super-resolution stages, and whether they belong to a base.

An entry of `sample.upsamplers` is one stage, in order:

  path    the workdir of a stage that another run trained (<its root>/
          upsamplers/<i>); None for this run's own
  level   schedule index of the noise on the image that it enlarges
  stepper, steps, eta, guidance, clip   as of the base, see `chain`

Whatever a stage was trained with stands in its own meta.json. A stage of
another run must have seen images of the same source at the same sides, and
the same captions by the same encoder; its split may be another, which
meta.json of the bank then says (`same_split`): it has seen other members.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from etils import epath

from diffmem import workdir
from diffmem.denoiser import trained
from diffmem.sample import cascade, chain

CHAIN = ("stepper", "steps", "eta", "guidance", "clip")
KEYS = {"path", "level", *CHAIN}


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage on disk: its workdir, its meta.json, its sampling."""

  folder: epath.Path
  meta: dict
  settings: dict

  def load(self) -> cascade.Upsampler:
    """With its weights and its chain.

    Raises ValueError where the settings do not fit the model.
    """
    denoiser = trained.load(self.folder)
    settings = {key: self.settings[key] for key in CHAIN}
    sampler = chain.chain(denoiser, **settings)
    return cascade.Upsampler(denoiser, sampler, self.settings["level"])

  def about(self, base: dict) -> dict[str, Any]:
    """What the meta.json of a bank keeps of it."""
    mine, its = self.meta["inputs"]["split"], base["inputs"]["split"]
    return {
      "folder": os.fspath(self.folder),
      "weights": self.meta["weights"],
      "shape": self.meta["shape"],
      "parameters": self.meta["parameters"],
      "seconds": self.meta["seconds"],
      "same_split": mine == its,
    }


def find(
  root: str | os.PathLike, base: dict, entries: Sequence[dict]
) -> list[Stage]:
  """The stages, checked against the base and each other.

  Args:
    root: the workdir of the base.
    base: meta.json of its training.
    entries: the config; see the module.

  Raises:
    FileNotFoundError: a stage was not trained, or not to its end.
    ValueError: a stage is not of this cascade; says what differs.
  """
  found: list[Stage] = []
  before = base
  for i, entry in enumerate(entries):
    if set(entry) != KEYS:
      raise ValueError(
        f"sample.upsamplers[{i}] has the keys {', '.join(sorted(entry))}; "
        f"expected {', '.join(sorted(KEYS))}"
      )
    folder = workdir.whole(root) / "upsamplers" / str(i)
    if entry["path"] is not None:
      folder = workdir.path(entry["path"])
    meta = workdir.require(folder, "train")
    _check(f"sample.upsamplers[{i}] ({folder})", meta, before, base)
    found.append(Stage(folder, meta, dict(entry)))
    before = meta
  return found


def _check(where: str, meta: dict, before: dict, base: dict) -> None:
  """Refuses a stage that does not go on from `before`."""
  low = meta["config"]["models"].get("low")
  if low is None:
    raise ValueError(
      f"{where} is a model that enlarges nothing: give the folder of a "
      "super-resolution stage, <root>/upsamplers/<i>"
    )
  height, width, channels = before["shape"]
  h, w, c = meta["shape"]
  if (low, w * low // h, c) != (height, width, channels):
    raise ValueError(
      f"{where} enlarges images of {low}x{w * low // h}x{c}, the stage before "
      f"it makes {height}x{width}x{channels}"
    )
  for key, what in (("dataset", "source"), ("captions", "captions")):
    mine, its = meta["inputs"].get(key), base["inputs"].get(key)
    if mine is not None and mine != its:
      raise ValueError(
        f"{where} was trained on other {what} than the base (sha256 "
        f"{mine[:12]}..., not {its[:12] + '...' if its else 'of any'}): "
        "train it on the same, or leave it out"
      )

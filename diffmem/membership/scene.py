# SPDX-License-Identifier: Apache-2.0
"""Who is scored, under which models, and who is a member of which.

A workdir has a model of its own, or shadow models, or both. The images are
those of the pool, members and held-out ones by id, and then the calibration
part, which no model was trained on.
"""

import dataclasses
import functools
import os
from typing import Any

import numpy as np

import diffmem.data
from diffmem import workdir
from diffmem.arrays import Bool, Int
from diffmem.data import Dataset, Split, reduced
from diffmem.denoiser import Denoiser
from diffmem.membership import captioned, choosing, manifest
from diffmem.membership.evaluate import Design, of_parts
from diffmem.membership.manifest import Manifest


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
  """Images, what each is used for, and models.

  Attributes:
    dataset, split: of the workdir; images at the size of its models.
    ids: of the scored images.
    parts: what each is used for.
    main: the model of the workdir alone, if it has one.
    shadows: its shadow models, and again the model; None without shadows.
  """

  dataset: Dataset
  split: Split
  ids: Int[np.ndarray, " n"]
  parts: choosing.Parts
  main: Manifest | None
  shadows: Manifest | None

  @property
  def targets(self) -> Manifest:
    """The models that attacks without shadows are aimed at."""
    found = self.shadows if self.main is None else self.main
    assert found is not None
    return found

  @functools.cached_property
  def design(self) -> Design:
    """Of the attacks without shadows."""
    return self.shadow_design if self.main is None else of_parts(self.parts)

  @functools.cached_property
  def shadow_design(self) -> Design:
    """Of the shadow models, each a target; what is planted counts once."""
    assert self.shadows is not None
    outside = np.zeros((1, int(self.parts.calibration.sum())), bool)
    outside = np.repeat(outside, len(self.shadows.shadows), axis=0)
    inside = np.concatenate([self.shadows.masks, outside], axis=1)
    return Design(inside, self.parts.choose, self.parts.report)

  @property
  def pool(self) -> Bool[np.ndarray, " n"]:
    """All but the calibration images: what shadow models share."""
    return ~self.parts.calibration

  def labels(self, denoiser: Denoiser) -> Any:
    """Of the scored images, or their captions, for a model that takes them."""
    return captioned.of_images(
      self.targets.root, self.dataset, denoiser, self.ids
    )

  @property
  def inputs(self) -> dict[str, str]:
    """What results depend on, by hash."""
    found = {"split": self.split.digest}
    if self.main is not None and self.main.main is not None:
      found["weights"] = self.main.main.weights
    if self.shadows is not None:
      found["shadows"] = self.shadows.digest
    return found


def build(
  root: str | os.PathLike, *, share: float, seed: int, with_shadows: bool
) -> Scene:
  """The scene of a workdir.

  Args:
    root: the workdir.
    share: of the images that choose, see `choosing.draw`.
    seed: of that draw.
    with_shadows: whether attacks with shadow models are wanted; they are
      needed too where there is no other model.

  Raises:
    FileNotFoundError: there is no model, or shadows are not all trained.
    ValueError: a class is empty, or the models do not belong together.
  """
  root = workdir.path(root)
  dataset, split = diffmem.data.read(root / "data")
  ids = np.concatenate([split.pool, split.calibration])
  copies = np.zeros(len(ids), np.int64)
  copies[np.searchsorted(split.pool, split.members)] = split.copies
  calibration = np.arange(len(ids)) >= len(split.pool)
  main = shadows = None
  if len(split.members):
    meta = workdir.require(root, "train")
    inside = copies[~calibration] > 0
    model = manifest.Model("main", root, None, meta["weights"], inside, meta)
    main = Manifest(root, split, (), model, dataset.info["sha256"])
  if with_shadows and split.shadows is None:
    raise ValueError(
      "membership.shadow_attacks need shadow models, the split has none: set "
      "data.split.shadows to an even number, or leave these attacks out"
    )
  there = split.shadows is not None and split.shadow is None
  if there and (with_shadows or main is None):
    shadows = manifest.read(root)
  if main is None and shadows is None:
    raise ValueError(
      "the split has 0 members and no shadow models: there is nothing to "
      "attack; raise data.split.members or data.split.shadows"
    )
  if main is not None and not len(split.held_out):
    raise ValueError(
      "the split has 0 held_out images, membership needs some of both: raise "
      "data.split.held_out"
    )
  parts = choosing.draw(copies, calibration, share=share, seed=seed)
  for models in (main, shadows):
    if models is not None and "shape" in models.models[0].meta:
      height = models.models[0].meta["shape"][0]
      dataset = reduced.fitted_dataset(dataset, height)
  return Scene(dataset, split, ids, parts, main, shadows)

# SPDX-License-Identifier: Apache-2.0
"""What is done against memorization while sampling: `sample.mitigation`.

None, or one method by its name, with its options:

  amg        name="amg", similarity=.., despecify=.., deduplicate=..,
             early=.., late=.., decay=.., alpha=.., neighbours=.., through=..
             away from the nearest training image (`antimemorization`)
  gaussian   name="gaussian", scale=..
  replace    name="replace", count=..; so "add" and "repeat"
             the prompt perturbed, for each image anew (`perturbation`)
  optimize   name="optimize", steps=.., lr=.., target=..
             the prompt's embedding optimized (`optimization`)

Each is a function of (weights, seed, id), as the image is. The section is kept
in the bank's config: two banks that differ in it alone are before and after.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np

import diffmem.data
from diffmem import arrays, workdir
from diffmem.arrays import AnyArray, Float
from diffmem.data import captions
from diffmem.denoiser import Denoiser
from diffmem.diffusion import augmentation, schedules
from diffmem.sample import antimemorization, optimization, perturbation

METHODS = {
  "amg": tuple(
    field.name for field in dataclasses.fields(antimemorization.Options)
  ),
  "gaussian": ("scale",),
  "replace": ("count",),
  "add": ("count",),
  "repeat": ("count",),
  "optimize": ("steps", "lr", "target"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Mitigated:
  """What a chain takes in place of the plain model.

  Attributes:
    denoiser: the model, or one that guides itself; its params go to the bank.
    guidance: what is left to the chain.
    prepare: changes conditions before the first step; see `chain.chain`.
  """

  denoiser: Denoiser
  guidance: float
  prepare: Callable[..., Any] | None = None


def check(section: dict[str, Any] | None) -> None:
  """ValueError unless a method there has all of its options and no others."""
  if section is None:
    return
  name = section.get("name")
  if name not in METHODS:
    raise ValueError(
      f"sample.mitigation.name={name!r}: choose one of {', '.join(METHODS)}"
    )
  given, needed = set(section) - {"name"}, set(METHODS[name])
  for what, keys in (
    ("lacks", needed - given),
    ("has the unknown", given - needed),
  ):
    if keys:
      raise ValueError(
        f"sample.mitigation {name!r} {what} {', '.join(sorted(keys))}: "
        f"expected {', '.join(METHODS[name])}"
      )
  options = {key: section[key] for key in METHODS[name]}
  if name == "amg":
    antimemorization.Options(**options)
  elif name != "optimize":
    perturbation.check(name, **{"scale": None, "count": None} | options)


def of_workdir(
  root: str | os.PathLike, denoiser: Denoiser, sample: dict[str, Any]
) -> Mitigated:
  """`apply` with the training images and captions of a workdir.

  Args:
    root: the workdir.
    denoiser: its model; of a cascade its base, which alone is changed.
    sample: the config section; without `mitigation` the model is plain.
  """
  section = sample.get("mitigation")
  found: dict[str, Any] = {}
  if section is not None:
    dataset, split = diffmem.data.read(workdir.path(root) / "data")
    captioned = isinstance(denoiser.null_cond, dict)
    known = None
    if captioned:
      known = captions.read(workdir.whole(root), dataset)
      found["vocabulary"] = np.asarray(known.tokens[:])[known.mask]
    if section["name"] == "amg":
      rows = dataset.rows(split.members)
      images = np.asarray(arrays.from_uint8(dataset.images[rows]))
      if denoiser.encode is None and images.shape[1:3] != denoiser.shape[:2]:
        images = np.asarray(augmentation.smaller(images, denoiser.shape[0]))
      found["references"] = images
      if known is not None:
        found["reference_cond"] = known.cond(known.ids[rows])
      elif denoiser.num_classes is not None and dataset.labels is not None:
        found["reference_cond"] = dataset.labels[rows].astype(np.int32)
  return apply(
    section,
    denoiser,
    guidance=sample["guidance"],
    steps=sample["steps"],
    **found,
  )


def apply(
  section: dict[str, Any] | None,
  denoiser: Denoiser,
  *,
  guidance: float,
  steps: int,
  references: Float[AnyArray, "n h w c"] | None = None,
  reference_cond: Any = None,
  vocabulary: Float[AnyArray, "v e"] | None = None,
) -> Mitigated:
  """The model with the method of a config section.

  Args:
    section: see the module.
    denoiser: the plain model.
    guidance, steps: of the chain.
    references, reference_cond: training images in [-1, 1], each once, and
      their conditions, for "amg".
    vocabulary: tokens [v e] to choose from, for "replace" and "add".

  Raises:
    ValueError: a method or option that cannot be, or what it needs is missing.
  """
  check(section)
  if section is None:
    return Mitigated(denoiser, guidance)
  options = {key: value for key, value in section.items() if key != "name"}
  name = section["name"]
  if name == "amg":
    if references is None:
      raise ValueError("sample.mitigation 'amg' needs the training images")
    guided = antimemorization.guided(
      denoiser,
      references,
      guidance=guidance,
      reference_cond=reference_cond,
      **options,
    )
    return Mitigated(guided, 1.0)
  if name == "optimize":
    first = schedules.respace(denoiser.schedule.steps, steps)[-1]
    change = optimization.optimizer(denoiser, t=int(first), **options)

    def prepare(params, x, cond, id_keys):
      del id_keys
      return change(params, x, cond)

    return Mitigated(denoiser, guidance, prepare)

  def perturb(params, x, cond, id_keys):
    del params, x
    return perturbation.tokens(
      cond, id_keys, kind=name, vocabulary=vocabulary, **options
    )

  return Mitigated(denoiser, guidance, perturb)

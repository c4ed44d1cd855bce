# SPDX-License-Identifier: Apache-2.0
"""The sample stage: a bank of images, made or brought from outside.

Which of the three is said by the keys of the config section:

  path      images that somebody else made, imported        (sample.imports)
  pipeline  an outside text-to-image pipeline               (sample.pipelines)
  neither   weights of the train stage and a seed           (here)
"""

import logging
import math
import os
from collections.abc import Callable

import jax
import numpy as np

from diffmem import keys, store, workdir
from diffmem.arrays import AnyArray, Float, Int, Key
from diffmem.denoiser import Denoiser, trained
from diffmem.sample import bank, chain, imports

_log = logging.getLogger(__name__)


def run(
  root: str | os.PathLike, *, seed: int, sample: dict, progress: bool = True
) -> None:
  """Makes <root>/sample, or what is still missing of it.

  Args:
    root: the workdir; its train stage must have finished where the images
      come from its model.
    seed: the root of the noise; image i is a function of (weights, seed, i).
      Imports draw nothing and do not read it.
    sample: the config section, as a plain dict; see the module.
    progress: show the rate and the time left.

  Raises:
    FileNotFoundError: there are no weights, or nothing at the path.
    ValueError, OSError: bad input, before anything is computed.
  """
  if "path" in sample:
    imports.run(root, sample=sample, progress=progress)
  elif "pipeline" in sample:
    # Here: it needs an extra.
    from diffmem.sample import pipelines

    pipelines.run(root, seed=seed, sample=sample, progress=progress)
  else:
    _from_model(root, seed=seed, sample=sample, progress=progress)


def _from_model(
  root: str | os.PathLike, *, seed: int, sample: dict, progress: bool
) -> None:
  """Samples from the trained model."""
  for name in ("n", "batch"):
    if sample[name] < 1:
      raise ValueError(f"sample.{name}={sample[name]} must be at least 1")
  weights = workdir.require(root, "train")["weights"]
  shape = tuple(workdir.require(root, "train")["shape"])
  n, size = sample["n"], math.prod(shape)
  chunks = workdir.path(root) / "sample" / "images" / "c"
  there = len(list(chunks.iterdir())) if chunks.exists() else 0
  with workdir.stage(
    root,
    "sample",
    config={"seed": seed, "sample": sample},
    inputs={"weights": weights},
    needs=(n - there * sample["batch"]) * size,
  ) as stage:
    images = store.create(
      stage.folder / "images",
      shape=(n, *shape),
      dtype=np.uint8,
      chunk=min(sample["batch"], n),
    )
    if stage.finished and images.complete():
      _log.info("sample: finished before, kept (%s)", stage.folder)
      return
    denoiser = trained.load(root)
    bank.fill(
      images,
      generator(denoiser, **sample),
      denoiser.params,
      keys.stream(keys.root(seed), "sample"),
      backend=sample["backend"],
      progress=progress,
    )
    stage.record("generated", n)


def generator(
  denoiser: Denoiser,
  *,
  stepper: str,
  steps: int,
  eta: float,
  guidance: float,
  clip: bool,
  n: int = 0,
  batch: int = 0,
  backend: str = "pmap",
) -> Callable:
  """(params, ids, key) -> images; classes, if any, take turns by id."""
  del n, batch, backend  # of the bank, not of an image
  make = chain.chain(
    denoiser,
    stepper=stepper,
    steps=steps,
    eta=eta,
    guidance=guidance,
    clip=clip,
  )

  def generate(
    params: object, ids: Int[AnyArray, " b"], key: Key[jax.Array, ""]
  ) -> Float[jax.Array, "b h w c"]:
    cond = None
    if denoiser.num_classes is not None:
      cond = (ids % denoiser.num_classes).astype(np.int32)
    return make(params, ids, key, cond)

  return generate

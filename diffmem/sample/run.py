# SPDX-License-Identifier: Apache-2.0
"""The sample stage: a bank of images, made or brought from outside.

Which of the three is said by the keys of the config section:

  path      images that somebody else made, imported        (sample.imports)
  pipeline  an outside text-to-image pipeline               (sample.pipelines)
  neither   weights of the train stage and a seed           (sample.models)
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float, Int, Key
from diffmem.denoiser import Denoiser
from diffmem.sample import chain, imports


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
    # Here: it is built on what stands below.
    from diffmem.sample import models

    models.run(root, seed=seed, sample=sample, progress=progress)


def generator(
  denoiser: Denoiser,
  *,
  stepper: str,
  steps: int,
  eta: float,
  guidance: float,
  clip: bool | float,
  n: int | None = 0,
  batch: int = 0,
  backend: str = "pmap",
  prompts: Any = None,
  per_prompt: int | None = None,
  upsamplers: Sequence[dict] = (),
  mitigation: dict | None = None,
  conditions: Any = None,
  prepare: Callable[..., Any] | None = None,
) -> Callable:
  """(params, ids, key) -> images of one denoiser.

  Classes, or `conditions` (a tree of [p ...]), if any, take turns by id. What
  `mitigation.apply` made of the section is given by its parts.
  """
  # Of the bank, not of an image, or of other stages.
  del n, batch, backend, prompts, per_prompt, upsamplers, mitigation
  make = chain.chain(
    denoiser,
    stepper=stepper,
    steps=steps,
    eta=eta,
    guidance=guidance,
    clip=clip,
    prepare=prepare,
  )

  if conditions is None:
    conditions = denoiser.num_classes
  return make if conditions is None else by_turns(make, conditions)


def by_turns(make: chain.Sampler, conditions: Any) -> Callable:
  """The sampler with a condition for each id, in turns.

  Args:
    make: the sampler.
    conditions: a tree of arrays with as many rows, or a number of classes.
  """
  classes = isinstance(conditions, int)
  rows = conditions if classes else len(jax.tree.leaves(conditions)[0])

  def generate(
    params: object, ids: Int[AnyArray, " b"], key: Key[jax.Array, ""]
  ) -> Float[jax.Array, "b h w c"]:
    cond: Any = (ids % rows).astype(np.int32)
    if not classes:
      cond = jax.tree.map(lambda leaf: jnp.asarray(leaf)[cond], conditions)
    return make(params, ids, key, cond)

  return generate

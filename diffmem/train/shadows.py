# SPDX-License-Identifier: Apache-2.0
"""Shadow models: the same training on many halves of the pool.

Shadow i trains on its own half of members and held-out images, which its
partner (2j and 2j+1) never sees; weights, batches and noise follow from (seed,
"shadow", i). Each has a complete workdir of its own, <root>/shadows/<i>.
"""

import logging
import os
from collections.abc import Sequence

import diffmem.data
from diffmem import workdir
from diffmem.data import splits
from diffmem.train import run as fit
from diffmem.train import stages

_log = logging.getLogger(__name__)


def run(
  root: str | os.PathLike,
  *,
  seed: int,
  data: dict,
  models: dict,
  train: dict,
  diffusion: dict | None = None,
  adversarial: dict | None = None,
  upsamplers: Sequence[dict] = (),
  which: Sequence[int] | None = None,
  progress: bool = True,
) -> None:
  """Trains shadow models in turn, or those that are still missing.

  They share one compiled program. Elsewhere, or many at a time, one job
  each: the train stage with data.split.shadow=i.

  Args:
    root: the workdir of all of them.
    seed: of the split, and of every shadow's own streams.
    data, models, train: the config sections, as plain dicts.
    diffusion, adversarial: see `run.run`.
    upsamplers: of a cascade, whose base alone has shadows.
    which: their numbers; None for all of data.split.shadows.
    progress: show the rate and the time left.

  Raises:
    ValueError, OSError: bad input, before anything is computed.
    FloatingPointError: a loss is not finite; names the step.
  """
  if data["split"]["shadow"] is not None:
    raise ValueError(
      f"data.split.shadow={data['split']['shadow']}: that is one shadow's own "
      "config, all of them have none"
    )
  dataset, split = diffmem.data.prepare(
    workdir.path(root) / "data",
    seed=seed,
    **{key: value for key, value in data.items() if key != "upsampler"},
  )
  count = 0 if split.shadows is None else len(split.shadows)
  which = range(count) if which is None else which
  for i in which:
    splits.of_shadow(split, i)  # refuses what there is not
  if not which:
    raise ValueError(
      "data.split.shadows=0: ask for an even number of shadow models"
    )
  part = stages.sections(
    data, models, diffusion, train, upsamplers, adversarial
  )
  shape = stages.reduced_shape(dataset.images.shape[1:], part.height)
  shared = fit.program(shape, **part.config)
  for n, i in enumerate(which):
    _log.info("train: shadow %d (%d of %d)", i, n + 1, len(which))
    fit.run(
      root,
      seed=seed,
      data={**data, "split": {**data["split"], "shadow": i}},
      models=models,
      diffusion=diffusion,
      adversarial=adversarial,
      train=train,
      upsamplers=upsamplers,
      shared=shared,
      progress=progress,
    )

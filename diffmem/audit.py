# SPDX-License-Identifier: Apache-2.0
"""The stages in order: `diffmem.audit(workdir, **config)`.

Every stage reads the folders of earlier ones and writes its own, so that the
same call goes on from where an earlier one stopped.
"""

import logging
import os
import sys
import time
import types
from typing import Any

import diffmem.data
from diffmem import workdir
from diffmem.distances import run as search
from diffmem.extraction import run as extract
from diffmem.membership import run as infer
from diffmem.report import run as publish
from diffmem.sample import bank, preview
from diffmem.sample import run as generate
from diffmem.train import run as fit

_log = logging.getLogger(__name__)


def run(
  root: str | os.PathLike,
  *,
  seed: int,
  data: dict,
  models: dict,
  diffusion: dict,
  train: dict,
  sample: dict,
  distances: dict,
  extraction: dict,
  membership: dict,
  report: dict,
  progress: bool = True,
) -> dict[str, Any]:
  """Trains, samples, searches, infers and reports.

  Args:
    root: the workdir.
    seed: of everything random.
    data, models, ..., report: the config sections, as plain dicts.
    progress: show the rate and the time left of long work.

  Returns:
    The contents of <root>/report/results.json.

  Raises:
    ValueError, OSError: bad input, before anything is computed.
  """
  start = time.monotonic()
  fit_model(
    root,
    seed=seed,
    data=data,
    models=models,
    diffusion=diffusion,
    train=train,
    sample=sample,
    progress=progress,
  )
  generate.run(root, seed=seed, sample=sample, progress=progress)
  find_neighbours(root, distances=distances, progress=progress)
  extract.run(root, seed=seed, extraction=extraction, progress=progress)
  infer.run(root, seed=seed, membership=membership, progress=progress)
  publish.run(root, report=report, progress=progress)
  _log.info("audit: done in %.0f s", time.monotonic() - start)
  return workdir.read_json(workdir.path(root) / "report" / "results.json")


def fit_model(
  root: str | os.PathLike, *, seed: int, train: dict, sample: dict, **rest: Any
) -> None:
  """The train stage with pictures of what the model draws."""
  hook = preview.hook(seed=seed, sample=sample, count=train["preview"])
  fit.run(root, seed=seed, train=train, preview=hook, **rest)


def find_neighbours(
  root: str | os.PathLike, *, distances: dict, progress: bool = True
) -> None:
  """The distances stage: the nearest images of every set that is compared.

  Writes <root>/distances/<queries>_to_<references> for generations against
  members, held-out and calibration images, and for real held-out images and
  members against members.
  """
  made = workdir.require(root, "sample")
  generated = bank.open_bank(root)
  dataset, split = diffmem.data.read(workdir.path(root) / "data")
  images = {
    name: dataset.take(getattr(split, name)) for name in diffmem.data.SETS
  }
  inputs = {"bank": workdir.digest([made["config"], made["inputs"]])}
  with workdir.stage(
    root, "distances", config={"distances": distances}, inputs=inputs
  ) as stage:
    if stage.finished:
      _log.info("distances: finished before, kept (%s)", stage.folder)
      return
    members = {"members": images["members"]}
    for queries, values, references in (
      ("generations", generated, images),  # read once for all three
      ("held_out", images["held_out"], members),
      ("members", images["members"], members),
    ):
      found = search.search_all(
        stage.folder,
        values,
        {f"{queries}_to_{name}": x for name, x in references.items()},
        **distances,
        progress=progress,
      )
      for name, about in found.items():
        stage.record(name, about)


class _Callable(types.ModuleType):
  """Lets `diffmem.audit(...)` be called, however it was imported."""

  def __call__(self, root: str | os.PathLike, **config: Any) -> dict[str, Any]:
    return run(root, **config)


sys.modules[__name__].__class__ = _Callable

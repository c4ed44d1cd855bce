# SPDX-License-Identifier: Apache-2.0
"""The stages of an experiment in order.

Every stage reads the folders of earlier ones and writes its own, so that the
same call goes on from where an earlier one stopped.
"""

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

from etils import epath

import diffmem.data
from diffmem import processes, workdir
from diffmem.data import given
from diffmem.distances import run as search
from diffmem.extraction import inpaint_run as reconstruct
from diffmem.extraction import measures_run as measure
from diffmem.extraction import prompts_run as ask_prompts
from diffmem.extraction import run as extract
from diffmem.extraction import side_run as surrogate
from diffmem.membership import run as infer
from diffmem.quality import run as judge
from diffmem.report import run as publish
from diffmem.sample import bank, choosing, preview
from diffmem.sample import run as generate
from diffmem.train import run as fit
from diffmem.train import shadows

_log = logging.getLogger(__name__)


def run(
  root: str | os.PathLike,
  *,
  seed: int,
  report: dict,
  data: dict | None = None,
  models: dict | None = None,
  diffusion: dict | None = None,
  adversarial: dict | None = None,
  train: dict | None = None,
  upsamplers: Sequence[dict] = (),
  choose: dict | None = None,
  sample: dict | None = None,
  distances: dict | None = None,
  features: dict | None = None,
  extraction: dict | None = None,
  prompts: dict | None = None,
  side: dict | None = None,
  inpaint: dict | None = None,
  measures: dict | None = None,
  membership: dict | None = None,
  quality: dict | None = None,
  progress: bool = True,
) -> dict[str, Any]:
  """Runs the stages whose sections are given, in order.

  With `train` a model of our own is trained on `data`, and its shadow models;
  data.split.members=0 leaves these alone, and nothing is sampled. One shadow
  (data.split.shadow=i) is audited in <root>/shadows/<i>. With `upsamplers` the
  model is the base of a cascade, whose other stages are trained too. Without
  `train`, images or a model from outside are audited: `sample` says where they
  are, and `data` holds the training images, where anybody has them
  (`data.path`).

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
  root = workdir.of(root, data or {})
  known = train is not None
  if train is not None:
    assert data is not None
    assert models is not None
    fit_model(
      root,
      seed=seed,
      data=data,
      models=models,
      diffusion=diffusion,
      adversarial=adversarial,
      train=train,
      upsamplers=upsamplers,
      sample=sample,
      progress=progress,
    )
    if not workdir.path(root).joinpath("train").exists():
      sample = None  # there is no model but the shadows
  if train is None and data is not None and data["path"] is not None:
    known = True
    check_given(data)
    if sample is not None and "pipeline" in sample:
      # Before hours of sampling; pipelines draw in colour.
      diffmem.data.prepare_given(_data(root), seed=seed, channels=3, **data)
  if choose is not None:
    choose_prompts(
      root,
      seed=seed,
      choose=choose,
      data=data,
      sample=sample,
      progress=progress,
    )
  if sample is not None:
    generate.run(root, seed=seed, sample=sample, progress=progress)
  if known and distances and extraction:
    find_neighbours(
      root, seed=seed, data=data, distances=distances, progress=progress
    )
    extract.run(
      root,
      seed=seed,
      extraction=extraction,
      features=features,
      progress=progress,
    )
  if prompts is not None:
    ask(root, seed=seed, prompts=prompts, progress=progress)
  if side is not None:
    surrogate.run(root, seed=seed, side=side, progress=progress)
  if inpaint is not None:
    reconstruct.run(root, seed=seed, inpaint=inpaint, progress=progress)
  if measures is not None:
    assert data is not None
    assert models is not None
    assert diffusion is not None
    assert train is not None
    measure.run(
      root,
      seed=seed,
      data=data,
      models=models,
      diffusion=diffusion,
      train=train,
      measures=measures,
      progress=progress,
    )
  if membership is not None:
    infer.run(root, seed=seed, membership=membership, progress=progress)
  if quality is not None and known and (root / "sample").exists():
    if data is not None and "path" in data:
      prepare_images(root, seed=seed, data=data)
    judge.run(root, seed=seed, quality=quality, progress=progress)
  publish.run(root, report=report, progress=progress)
  _log.info("audit: done in %.0f s", time.monotonic() - start)
  return workdir.read_json(workdir.path(root) / "report" / "results.json")


def _data(root: str | os.PathLike) -> epath.Path:
  return workdir.path(root) / "data"


def check_given(data: dict) -> None:
  """Raises for paths where nothing is, before generations are read."""
  for key in ("path", "held_out"):
    if isinstance(data[key], str | os.PathLike):
      given.source(data[key])


def prepare_images(root: str | os.PathLike, *, seed: int, data: dict) -> None:
  """Training images from outside, in colour where the generations are."""
  channels = bank.open_bank(root).shape[-1]
  diffmem.data.prepare_given(_data(root), seed=seed, channels=channels, **data)


def _check_sizes(made: tuple[int, ...], given: tuple[int, ...]) -> None:
  """Refuses generations and training images of different sizes."""
  if made != given:
    raise ValueError(
      f"generations are {'x'.join(map(str, made))}, training images "
      f"{'x'.join(map(str, given))}: bring both to one size with "
      "sample.crop=center, sample.resize=SIDE and the same in data"
    )


def fit_model(
  root: str | os.PathLike,
  *,
  seed: int,
  data: dict,
  models: dict,
  train: dict,
  diffusion: dict | None = None,
  adversarial: dict | None = None,
  upsamplers: Sequence[dict] = (),
  sample: dict | None = None,
  progress: bool = True,
) -> None:
  """The train stage: the model, with pictures of what it draws, and shadows.

  A split without members has no model but the shadows; data.split.shadow=i
  trains that one alone. Of a cascade the base is trained, then each of the
  upsamplers; data.upsampler=i trains that one alone. A GAN has a section
  `adversarial` in the place of `diffusion`. Several processes train one model
  together.
  """
  processes.together(
    _fit,
    root,
    seed=seed,
    data=data,
    models=models,
    diffusion=diffusion,
    adversarial=adversarial,
    train=train,
    upsamplers=upsamplers,
    sample=sample,
    progress=progress,
  )


def _fit(
  root: str | os.PathLike,
  *,
  seed: int,
  data: dict,
  train: dict,
  upsamplers: Sequence[dict],
  sample: dict | None,
  **rest: Any,
) -> None:
  sections: dict[str, Any] = dict(
    seed=seed,
    data=data,
    train=train,
    upsamplers=upsamplers,
    **rest,
  )
  split, hook = data["split"], None
  if sample is not None:
    hook = preview.hook(seed=seed, sample=sample, count=train["preview"])
  if split["members"] != 0 or split["shadow"] is not None:
    fit.run(root, preview=hook, **sections)
  if data.get("upsampler") is not None or split["shadow"] is not None:
    return
  for i in range(len(upsamplers)):
    own: dict[str, Any] = sections | {"data": {**data, "upsampler": i}}
    fit.run(root, preview=hook, **own)
  if split["shadows"]:
    shadows.run(root, **sections)


def find_neighbours(
  root: str | os.PathLike,
  *,
  seed: int,
  data: dict | None,
  distances: dict,
  progress: bool = True,
) -> None:
  """The distances stage: the nearest images of every set that is compared.

  Training images from outside (`data.path`) become <root>/data first: grey
  ones in colour where the generations are.

  Writes <root>/distances/<queries>_to_<references> for generations against
  members and, where there are some, held-out and calibration images, and for
  members and real held-out images against members.
  """
  made = workdir.require(root, "sample")
  generated = bank.open_bank(root)
  if data is not None and "path" in data:
    prepare_images(root, seed=seed, data=data)
  dataset, split = diffmem.data.read(_data(root))
  _check_sizes(generated.shape[1:], dataset.images.shape[1:])
  images = {
    name: dataset.take(ids)
    for name in diffmem.data.SETS
    if len(ids := getattr(split, name))
  }
  inputs = {"bank": bank.digest(made), "split": split.digest}
  with workdir.stage(
    root, "distances", config={"distances": distances}, inputs=inputs
  ) as stage:
    if stage.finished:
      _log.info("distances: finished before, kept (%s)", stage.folder)
      return
    members = {"members": images["members"]}
    searches = [
      ("generations", generated, images),  # read once for all sets
      ("members", images["members"], members),
    ]
    if "held_out" in images:
      searches.append(("held_out", images["held_out"], members))
    for queries, values, references in searches:
      found = search.search_all(
        stage.folder,
        values,
        {f"{queries}_to_{name}": x for name, x in references.items()},
        **distances,
        progress=progress,
      )
      for name, about in found.items():
        stage.record(name, about)


@processes.led
def choose_prompts(
  root: str | os.PathLike,
  *,
  seed: int,
  choose: dict,
  data: dict | None = None,
  sample: dict | None = None,
  progress: bool = True,
) -> None:
  """The choose stage: prompts among the captions of the training images.

  Training images from outside (`data.path`) become <root>/data first, in
  colour where a pipeline will be asked.
  """
  if not any(choose[kind] for kind in choosing.KINDS):
    _log.info("choose: skipped, no prompts are asked for")
    return
  if data is not None and "path" in data:
    colour = 3 if sample is not None and "pipeline" in sample else None
    diffmem.data.prepare_given(_data(root), seed=seed, channels=colour, **data)
  choosing.run(root, seed=seed, choose=choose, progress=progress)


def ask(
  root: str | os.PathLike, *, seed: int, prompts: dict, progress: bool = True
) -> None:
  """The prompts stage, where the bank knows its prompts."""
  reason = ask_prompts.untestable(
    bank.open_bank(root),
    prompts["minimum"],
    calibrate=prompts["edge"] is None,
  )
  if reason is not None:
    _log.info("prompts: skipped, %s", reason)
    return
  ask_prompts.run(root, seed=seed, prompts=prompts, progress=progress)

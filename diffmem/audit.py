# SPDX-License-Identifier: Apache-2.0
"""The stages in order, as one function.

  diffmem.audit(workdir, **config)                       any experiment
  diffmem.audit(generations=..., training=...)           somebody's images
  diffmem.audit(denoiser=..., images=..., held_out=...)  somebody's model

Every stage reads the folders of earlier ones and writes its own, so that the
same call goes on from where an earlier one stopped.
"""

import logging
import os
import sys
import tempfile
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

import diffmem.data
from diffmem import args, workdir
from diffmem.distances import run as search
from diffmem.extraction import prompts_run as ask_prompts
from diffmem.extraction import run as extract
from diffmem.membership import run as infer
from diffmem.report import run as publish
from diffmem.sample import bank, imports, preview
from diffmem.sample import run as generate
from diffmem.train import run as fit
from diffmem.train import shadows

_log = logging.getLogger(__name__)

# Of audits in one line; what configs/folder.py says, which a test asserts.
DEFAULTS = {
  "data": dict(
    path=None,
    held_out=None,
    data_dir=None,
    crop="none",
    resize=None,
    filter="lanczos",
    calibration=0.5,
  ),
  "sample": dict(
    path=None,
    prompts=None,
    crop="none",
    resize=None,
    filter="lanczos",
    max_pixels=2**26,
    batch=512,
  ),
  "distances": dict(k=51, block=2048, mirror=True),
  "features": dict(name="descriptor", path=None, mirror=True, batch=256),
  "extraction": dict(
    alpha=0.5,
    neighbours=50,
    centring="generation",
    false_match_rate=0.001,
    gallery=48,
  ),
  "prompts": dict(
    minimum=10,
    patch=None,
    edge=None,
    edge_rate=0.001,
    flag_rate=0.001,
    unsuspected=None,
    controls=200,
    flat=0.02,
    limit=4096,
    budget=2_500_000,
    delta=0.15,
    duplicates_delta=0.1,
    gallery=48,
  ),
  "report": dict(
    title="Are these images copies of training images?",
    gallery=48,
    labels=(),
  ),
}


def run(
  root: str | os.PathLike,
  *,
  seed: int,
  report: dict,
  data: dict | None = None,
  models: dict | None = None,
  diffusion: dict | None = None,
  train: dict | None = None,
  sample: dict | None = None,
  distances: dict | None = None,
  features: dict | None = None,
  extraction: dict | None = None,
  prompts: dict | None = None,
  membership: dict | None = None,
  progress: bool = True,
) -> dict[str, Any]:
  """Runs the stages whose sections are given, in order.

  With `train` a model of our own is trained on `data`, and its shadow models;
  data.split.members=0 leaves these alone, and nothing is sampled. One shadow
  (data.split.shadow=i) is audited in <root>/shadows/<i>. Without it, images or
  a model from outside are audited: `sample` says where they are, and `data`
  holds the training images, where anybody has them (`data.path`).

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
    if not workdir.path(root).joinpath("train").exists():
      sample = None  # there is no model but the shadows
  elif data is not None and data["path"] is not None:
    diffmem.data.prepare_given(workdir.path(root) / "data", seed=seed, **data)
    known = True
  if sample is not None:
    generate.run(root, seed=seed, sample=sample, progress=progress)
  if known and distances and extraction:
    _check_sizes(root)
    find_neighbours(root, distances=distances, progress=progress)
    extract.run(
      root,
      seed=seed,
      extraction=extraction,
      features=_second(root, features),
      progress=progress,
    )
  if prompts is not None:
    ask(root, seed=seed, prompts=prompts, progress=progress)
  if membership is not None:
    infer.run(root, seed=seed, membership=membership, progress=progress)
  publish.run(root, report=report, progress=progress)
  _log.info("audit: done in %.0f s", time.monotonic() - start)
  return workdir.read_json(workdir.path(root) / "report" / "results.json")


def _check_sizes(root: str | os.PathLike) -> None:
  """Refuses generations and training images of different sizes."""
  made = bank.open_bank(root).shape[1:]
  given = workdir.read_json(workdir.path(root) / "data" / "meta.json")
  shape = tuple(given["dataset"]["shape"])
  if made != shape:
    raise ValueError(
      f"generations are {'x'.join(map(str, made))}, training images "
      f"{'x'.join(map(str, shape))}: bring both to one size with "
      "sample.crop=center, sample.resize=SIDE and the same in data"
    )


def _second(root: str | os.PathLike, features: dict | None) -> dict | None:
  """The second distance, where held-out images can set its threshold."""
  if features is None or features["name"] is None:
    return None
  given = workdir.read_json(workdir.path(root) / "data" / "meta.json")
  if not given["split"]["held_out"]:
    _log.warning(
      "extraction: no second distance (features.name = %s), there are no "
      "held-out images to set its threshold",
      features["name"],
    )
    return None
  return features


def fit_model(
  root: str | os.PathLike,
  *,
  seed: int,
  data: dict,
  train: dict,
  sample: dict | None,
  **rest: Any,
) -> None:
  """The train stage: the model, with pictures of what it draws, and shadows.

  A split without members has no model but the shadows; data.split.shadow=i
  trains that one alone.
  """
  sections = dict(seed=seed, data=data, train=train, **rest)
  split, hook = data["split"], None
  if sample is not None:
    hook = preview.hook(seed=seed, sample=sample, count=train["preview"])
  if split["members"] != 0 or split["shadow"] is not None:
    fit.run(root, preview=hook, **sections)
  if split["shadows"] and split["shadow"] is None:
    shadows.run(root, **sections)


def find_neighbours(
  root: str | os.PathLike, *, distances: dict, progress: bool = True
) -> None:
  """The distances stage: the nearest images of every set that is compared.

  Writes <root>/distances/<queries>_to_<references> for generations against
  members and, where there are some, held-out and calibration images, and for
  members and real held-out images against members.
  """
  made = workdir.require(root, "sample")
  generated = bank.open_bank(root)
  dataset, split = diffmem.data.read(workdir.path(root) / "data")
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


def ask(
  root: str | os.PathLike, *, seed: int, prompts: dict, progress: bool = True
) -> None:
  """The prompts stage, where the bank knows its prompts."""
  reason = ask_prompts.untestable(bank.open_bank(root), prompts["minimum"])
  if reason is not None:
    _log.info("prompts: skipped, %s", reason)
    return
  ask_prompts.run(root, seed=seed, prompts=prompts, progress=progress)


def of_images(
  workdir: str | os.PathLike | None = None,
  *,
  generations: Any,
  training: Any = None,
  held_out: Any = None,
  prompts: Sequence[str] | None = None,
  seed: int = 0,
  progress: bool = False,
  **sections: dict,
) -> dict[str, Any]:
  """Audits generated images, with or without the training images.

  Args:
    workdir: where results go; a new temporary folder where none is given.
    generations: uint8 images [n h w c], or a path as in configs/folder.py.
    training: what the model was trained on: an array, a folder, an npz file;
      None where it is not known.
    held_out: images of the same kind that the model never saw, for the
      control; likewise.
    prompts: of each generation, where they are arrays.
    seed: of everything random.
    progress: show the rate and the time left.
    **sections: settings of single sections that differ from the defaults, as
      in extraction={"false_match_rate": 0.01}.

  Returns:
    The contents of results.json, and "workdir".

  Raises:
    ValueError, OSError: bad input, before anything is computed.
  """
  root = _folder(workdir)
  config = _config(sections)
  config["data"] |= {"path": training, "held_out": held_out}
  if isinstance(generations, str | os.PathLike):
    if prompts is not None:
      raise ValueError(
        "prompts are for generations given as arrays: for files give "
        "sample={'prompts': FILE}"
      )
    config["sample"]["path"] = os.fspath(generations)
  else:
    del config["sample"]
    imports.from_arrays(root, generations, prompts=prompts, progress=progress)
  results = run(root, seed=seed, progress=progress, **config)
  return results | {"workdir": os.fspath(root)}


def _folder(folder: str | os.PathLike | None) -> epath.Path:
  return workdir.path(folder or tempfile.mkdtemp(prefix="diffmem-"))


def _config(sections: Mapping[str, Any]) -> dict[str, dict]:
  """The defaults with some settings changed; unknown ones are refused."""
  config = {name: dict(section) for name, section in DEFAULTS.items()}
  for name, section in sections.items():
    if name not in config:
      raise ValueError(args.unknown("section", name, config))
    for key in section:
      if key not in config[name]:
        raise ValueError(args.unknown(f"{name} setting", key, config[name]))
    config[name] |= section
  return config


class _Callable(types.ModuleType):
  """Lets `diffmem.audit(...)` be called, however it was imported."""

  def __call__(
    self, root: str | os.PathLike | None = None, **given: Any
  ) -> dict[str, Any]:
    if "generations" in given:
      return of_images(root, **given)
    if root is None:
      raise ValueError("give a workdir with a config, or generations=...")
    return run(root, **given)


sys.modules[__name__].__class__ = _Callable

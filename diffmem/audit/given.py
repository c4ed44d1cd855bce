# SPDX-License-Identifier: Apache-2.0
"""Audits in one line of Python, of images or of a model from outside."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

import diffmem.data
from diffmem import args, workdir
from diffmem.audit.stages import run
from diffmem.denoiser import Denoiser
from diffmem.membership import given
from diffmem.sample import generators, imports

ATTACKS = ("loss", "secmi", "pia", "sima")  # of a model given in Python
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
  "quality": dict(  # measured where a call says `quality=...`
    features=dict(
      name="classifier",
      path=None,
      training=dict(steps=200, batch=128, seed=0),
    ),
    images=10_000,
    batch=256,
    groups=20,
    neighbours=dict(precision=3, coverage=5),
    loss=None,
  ),
  "report": dict(
    title="Are these images copies of training images?",
    gallery=48,
    labels=(),
  ),
}


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


def of_denoiser(
  workdir: str | os.PathLike | None = None,
  *,
  denoiser: Denoiser,
  images: Any,
  held_out: Any,
  n: int = 4096,
  batch: int = 512,
  steps: int = 50,
  attacks: Mapping[str, dict] | None = None,
  t: int = 100,
  seed: int = 0,
  progress: bool = False,
  **sections: dict,
) -> dict[str, Any]:
  """Audits a model from Python: samples from it, searches, and attacks it.

  Args:
    workdir: where results go; a new temporary folder where none is given.
    denoiser: the model, whose samples are images (no latents).
    images: what it was trained on, uint8 [n h w c].
    held_out: images of the same kind that it never saw.
    n, batch, steps: images to sample, in a call, and steps of DDIM.
    attacks: {name: options} of membership; loss, SecMI, PIA and SimA where
      none are given.
    t: the time of the attacks, fixed in advance.
    seed, progress, **sections: as of `of_images`.

  Returns:
    The contents of results.json, and "workdir".

  Raises:
    ValueError, OSError: bad input, before anything is computed.
  """
  root = _folder(workdir)
  config = _config(sections)
  config["data"] |= {"path": images, "held_out": held_out}
  del config["sample"], config["prompts"]
  attacks = attacks or {name: {} for name in ATTACKS}
  given.check(attacks, t)
  diffmem.data.prepare_given(root / "data", seed=seed, **config["data"])
  generators.run_denoiser(
    root,
    denoiser,
    steps=steps,
    n=n,
    batch=batch,
    seed=seed,
    progress=progress,
  )
  given.run(
    root,
    denoiser,
    images,
    held_out,
    attacks=attacks,
    t=t,
    seed=seed,
    progress=progress,
  )
  results = run(root, seed=seed, progress=progress, **config)
  return results | {"workdir": os.fspath(root)}


def _folder(folder: str | os.PathLike | None) -> epath.Path:
  return workdir.path(folder or tempfile.mkdtemp(prefix="diffmem-"))


def _config(sections: Mapping[str, Any]) -> dict[str, Any]:
  """The defaults with some settings changed; unknown ones are refused."""
  config = {name: dict(section) for name, section in DEFAULTS.items()}
  for name, section in sections.items():
    if name not in config:
      raise ValueError(args.unknown("section", name, config))
    for key in section:
      if key not in config[name]:
        raise ValueError(args.unknown(f"{name} setting", key, config[name]))
    config[name] |= section
  if "quality" not in sections:
    del config["quality"]
  return config

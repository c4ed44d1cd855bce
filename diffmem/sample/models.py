# SPDX-License-Identifier: Apache-2.0
"""Banks of our own models: weights of the train stage, a seed, and prompts.

A GAN draws each image in one pass (sample.n, batch and backend are all). A
cascade adds trained super-resolution stages (sample.upsamplers), a model
with captions the prompts that it draws (sample.prompts, sample.per_prompt).
"""

import logging
import math
import os
from typing import Any

import numpy as np

from diffmem import keys, store, workdir
from diffmem.denoiser import gans, trained
from diffmem.sample import (
  bank,
  cascade,
  chain,
  conditions,
  mitigation,
  upsampling,
)
from diffmem.sample import run as stages

_log = logging.getLogger(__name__)


def run(
  root: str | os.PathLike, *, seed: int, sample: dict, progress: bool
) -> None:
  """Makes <root>/sample from <root>/train; see `sample.run.run`."""
  if sample["batch"] < 1:
    raise ValueError(f"sample.batch={sample['batch']} must be at least 1")
  mitigation.check(sample.get("mitigation"))
  base = workdir.require(root, "train")
  _check_keys(base, sample)
  inputs: dict[str, Any] = {"weights": base["weights"]}
  if sample.get("mitigation") is not None:
    inputs["split"] = base["inputs"]["split"]  # images to keep away from
  parts = upsampling.find(root, base, sample.get("upsamplers") or ())
  if parts:
    inputs["upsamplers"] = [part.meta["weights"] for part in parts]
  prompted = _prompted(root, base, sample)
  n = sample["n"]
  if prompted is not None:
    n = len(prompted.ids)
    inputs["prompts"] = workdir.digest(prompted.texts)
    inputs["captions"] = prompted.digest
  if n is None or n < 1:
    raise ValueError(f"sample.n={n} must be at least 1")
  shape = tuple((parts[-1].meta if parts else base)["shape"])
  chunks = workdir.path(root) / "sample" / "images" / "c"
  there = len(list(chunks.iterdir())) if chunks.exists() else 0
  with workdir.stage(
    root,
    "sample",
    config={"seed": seed, "sample": sample},
    inputs=inputs,
    needs=(n - there * sample["batch"]) * math.prod(shape),
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
    generate, params = _generator(root, sample, parts, prompted)
    if prompted is not None:
      bank.write_beside(
        stage.folder, prompts=prompted.texts, prompt_ids=prompted.ids
      )
    bank.fill(
      images,
      generate,
      params,
      keys.stream(keys.root(seed), "sample"),
      backend=sample["backend"],
      progress=progress,
    )
    stage.record("generated", n)
    if parts:
      stage.record("upsamplers", [part.about(base) for part in parts])


def _check_keys(base: dict, sample: dict) -> None:
  """A GAN has no chain: options of one would do nothing."""
  if not gans.is_gan(base["config"]):
    return
  more = sorted(set(sample) - {"n", "batch", "backend"})
  if more:
    raise ValueError(
      f"sample.{more[0]} is of denoisers; images of a GAN take n, batch and "
      f"backend: leave out {', '.join(more)}"
    )


def _prompted(
  root: str | os.PathLike, base: dict, sample: dict
) -> conditions.Prompted | None:
  """The prompts, where the model takes captions."""
  wanted, per_prompt = sample.get("prompts"), sample.get("per_prompt")
  if base["config"]["models"].get("text") is None:
    if wanted is not None or per_prompt is not None:
      raise ValueError(
        "sample.prompts and sample.per_prompt are for models with captions, "
        f"{workdir.path(root) / 'train'} has none: set both to None"
      )
    return None
  found = conditions.read(
    root,
    n=sample["n"],
    wanted=wanted,
    per_prompt=per_prompt,
    encoder=base["config"]["data"]["captions"],
  )
  if found.digest != base["inputs"]["captions"]:
    raise ValueError(
      f"{workdir.whole(root) / 'captions'} was embedded anew since "
      f"{workdir.path(root) / 'train'} was made from it: train again"
    )
  return found


def _generator(
  root: str | os.PathLike,
  sample: dict,
  parts: list[upsampling.Stage],
  prompted: conditions.Prompted | None,
) -> tuple[bank.Generate, Any]:
  """(params, ids, key) -> images, and its params."""
  if gans.is_gan(workdir.require(root, "train")["config"]):
    gan = gans.load(root)
    return gan.draw, gan.params
  made = mitigation.of_workdir(root, trained.load(root), sample)
  denoiser, params = made.denoiser, made.denoiser.params
  changed = {"guidance": made.guidance, "prepare": made.prepare}
  if not parts and prompted is None:
    return stages.generator(denoiser, **{**sample, **changed}), params
  options = {key: sample[key] for key in upsampling.CHAIN}
  make = chain.chain(denoiser, **{**options, **changed})
  if parts:
    loaded = [part.load() for part in parts]
    make = cascade.cascade(denoiser, make, loaded)
    params = (params, *[one.denoiser.params for one in loaded])
  if prompted is not None:
    return conditions.generator(make, prompted), {
      "weights": params,
      "conditions": prompted.tree,
    }
  if denoiser.num_classes is None:
    return make, params
  return stages.by_turns(make, denoiser.num_classes), params

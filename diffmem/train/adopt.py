# SPDX-License-Identifier: Apache-2.0
"""The train stage with weights that somebody else trained.

<root>/data and <root>/train are as if the config had been trained here; every
later stage, and the whole audit with the same config, goes on from them.
"""

import logging
import os
from typing import Any

import jax

import diffmem.models
from diffmem import checkpoint, keys, processes, workdir
from diffmem.denoiser import trained
from diffmem.models import convert, weights
from diffmem.train import run as fit

_log = logging.getLogger(__name__)


@processes.led
def run(
  root: str | os.PathLike,
  *,
  seed: int,
  data: dict,
  models: dict,
  diffusion: dict,
  train: dict,
  source: str | os.PathLike,
) -> None:
  """Writes <root>/data, and <root>/train from a file of weights.

  Args:
    root: the workdir.
    seed: of the split.
    data, models, diffusion, train: the config sections that the weights were
      trained by, as far as it is known; the sections of the network and of the
      schedule are checked against the weights.
    source: the file, see `models.weights`, in the layout of `models.convert`.

  Raises:
    FileNotFoundError, ImportError: see `models.weights.read`.
    ValueError: the weights are of another layout, or of another network or
      schedule than the config's; names the first key and both values.
  """
  state = weights.read(source)
  _, dataset, split = fit.prepare(root, seed, data)
  shape = dataset.images.shape[1:]
  found = convert.pytorch_ddpm(state, height=shape[0])
  _check(found, shape, models, diffusion)
  _check_shapes(trained.network(shape, models, diffusion), found.params)
  config = {
    "seed": seed,
    "data": data,
    "models": models,
    "diffusion": diffusion,
    "train": train,
  }
  size = diffmem.models.count(found.params)
  with workdir.stage(
    workdir.of(root, data),
    "train",
    config=config,
    inputs={"dataset": dataset.info["sha256"], "split": split.digest},
    needs=2 * 4 * size,
  ) as stage:
    if stage.finished:
      _check_same(stage, found.params)
      _log.info("train: converted before, kept (%s)", stage.folder)
      return
    _write(stage, found.params, train["steps"], workdir.plain(config))
    stage.record("shape", shape)
    stage.record("parameters", size)
    stage.record("images", len(split.training_rows))
    stage.record("converted", {"from": os.fspath(source)})


def _write(stage: workdir.Stage, params: Any, step: int, meta: dict) -> None:
  params = jax.device_put(params)
  with checkpoint.Checkpointer(stage.folder / "checkpoints") as checkpointer:
    checkpointer.save(step, {"ema": params}, meta=meta)
    checkpointer.wait()
  stage.record("weights", fit.digest(params))


def _check(
  found: convert.Converted, shape: Any, models: dict, diffusion: dict
) -> None:
  """The config must say what the weights say."""
  of_weights = {f"models.{key}": value for key, value in found.knobs.items()}
  of_weights |= {
    "diffusion.schedule.steps": found.steps,
    "diffusion.prediction": "eps",
    "diffusion.loss": "mse",
  }
  of_config = {f"models.{key}": models.get(key) for key in found.knobs}
  of_config |= {
    "diffusion.schedule.steps": diffusion["schedule"].get("steps"),
    "diffusion.prediction": diffusion["prediction"],
    "diffusion.loss": diffusion["loss"],
  }
  if shape[2] != found.channels:
    raise ValueError(
      f"the weights are of images with {found.channels} channels, the data "
      f"are {shape}"
    )
  for key, value in of_weights.items():
    if workdir.plain(of_config[key]) != workdir.plain(value):
      raise ValueError(
        f"the weights are of a network with {key}={value!r}, the config has "
        f"{of_config[key]!r}: give --config.{key}={value}"
      )


def _check_shapes(model: diffmem.models.Model, params: Any) -> None:
  expected = jax.eval_shape(model.init, keys.root(0))
  if jax.tree.map(lambda x: x.shape, params) != jax.tree.map(
    lambda x: x.shape, expected
  ):
    raise ValueError(
      "the weights have other shapes than the network that their names say"
    )


def _check_same(stage: workdir.Stage, params: Any) -> None:
  if stage.meta["weights"] != fit.digest(params):
    raise ValueError(
      f"{stage.folder} holds other weights already; use another --workdir, "
      f"or delete {stage.folder} to make it anew"
    )

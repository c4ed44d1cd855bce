# SPDX-License-Identifier: Apache-2.0
"""The train stage: a source and a config -> weights, metrics, previews."""

import functools
import hashlib
import logging
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import diffmem.data
import diffmem.models
from diffmem import checkpoint, keys, mesh, workdir
from diffmem.denoiser import trained
from diffmem.diffusion import schedules
from diffmem.train import loop, state, step, tensorboard

_log = logging.getLogger(__name__)

# (parameters -> denoiser, folder) -> (step, parameters) -> None
Preview = Callable[..., Callable[[int, Any], None]]


def run(
  root: str | os.PathLike,
  *,
  seed: int,
  data: dict,
  models: dict,
  diffusion: dict,
  train: dict,
  preview: Preview | None = None,
  progress: bool = True,
) -> None:
  """Trains, or goes on training, and writes <root>/data and <root>/train.

  Args:
    root: the workdir.
    seed: of the split, the weights, the batches and the noise.
    data, models, diffusion, train: the config sections, as plain dicts.
    preview: makes the hook that draws samples while training.
    progress: show the rate and the time left.

  Raises:
    ValueError, OSError: bad input, before anything is computed.
    FloatingPointError: the loss is not finite; names the step.
  """
  _check(train)
  dataset, split = diffmem.data.prepare(
    workdir.path(root) / "data", seed=seed, **data
  )
  config = {
    "seed": seed,
    "data": data,
    "models": models,
    "diffusion": diffusion,
    "train": train,
  }
  shape = dataset.images.shape[1:]
  inputs = {"dataset": dataset.info["sha256"], "split": split.digest}
  model = trained.network(shape, models, diffusion)
  _check_labels(model, dataset)
  # Four trees of float32 a checkpoint: weights, EMA, two moments; two are
  # kept while a third is written.
  size = diffmem.models.count(jax.eval_shape(model.init, keys.root(seed)))
  with workdir.stage(
    root, "train", config=config, inputs=inputs, needs=3 * 4 * 4 * size
  ) as stage:
    if stage.finished:
      _log.info("train: finished before, kept (%s)", stage.folder)
      return
    stage.record("shape", shape)
    build = functools.partial(trained.build, shape, models, diffusion)
    draw = preview and preview(build, stage.folder / "previews")
    ema = _train(stage, config, model, dataset, split, draw, progress)
    stage.record("weights", digest(ema))
    stage.record("images", len(split.training_rows))


def digest(params: Any) -> str:
  """sha256 over all weights, in the order of their names."""
  found = hashlib.sha256()
  for leaf in jax.tree.leaves(params):
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()


def _train(stage, config, model, dataset, split, preview, progress) -> Any:
  train = config["train"]
  root = keys.stream(keys.root(config["seed"]), "train")
  rate = state.learning_rate(
    lr=train["lr"],
    warmup=train["warmup"],
    steps=train["steps"],
    decay=train["decay"],
  )
  tx = state.optimizer(rate, clip=train["clip"])
  first = jax.jit(
    functools.partial(state.init, model.init, tx),
    out_shardings=mesh.replicated(mesh.data_mesh()),
  )(keys.stream(root, "init"))
  stage.record("parameters", diffmem.models.count(first["params"]))
  rows = np.searchsorted(dataset.ids, split.training_rows)
  batches = diffmem.data.Batches(
    dataset.images,
    dataset.labels,
    rows,
    batch=train["batch"],
    seed=config["seed"],
    flip=train["flip"],
  )
  step_fn = step.create(
    model,
    schedules.create(**config["diffusion"]["schedule"]),
    tx,
    rate,
    root,
    prediction=config["diffusion"]["prediction"],
    loss=config["diffusion"]["loss"],
    ema=train["ema"],
    label_dropout=train["label_dropout"],
  )
  needed = ("image", "label") if model.num_classes is not None else ("image",)

  def batch_at(i: int) -> dict[str, np.ndarray]:
    batch = batches.at(i)
    return {key: batch[key] for key in needed}

  with checkpoint.Checkpointer(stage.folder / "checkpoints") as checkpointer:
    last = loop.loop(
      state=first,
      step_fn=step_fn,
      batch_at=batch_at,
      steps=train["steps"],
      checkpointer=checkpointer,
      metrics=stage.folder / "metrics.jsonl",
      log_every=train["log_every"],
      checkpoint_every=train["checkpoint_every"],
      preview_every=train["preview_every"],
      preview=preview,
      writer=tensorboard.writer(stage.folder / "tensorboard")
      if train["tensorboard"]
      else None,
      meta=workdir.plain(config),
      progress=progress,
    )
  return jax.device_get(last["ema"])


def _check(train: dict) -> None:
  for key in ("steps", "log_every", "checkpoint_every", "preview_every"):
    if train[key] < 1:
      raise ValueError(f"train.{key}={train[key]} must be at least 1")
  if not 0 <= train["ema"] < 1:
    raise ValueError(f"train.ema={train['ema']} must lie in [0, 1)")
  devices = jax.device_count()
  if train["batch"] < 1 or train["batch"] % devices:
    raise ValueError(
      f"train.batch={train['batch']} does not divide over {devices} devices; "
      f"use a multiple of {devices}"
    )


def _check_labels(model: diffmem.models.Model, dataset) -> None:
  if model.num_classes is None:
    return
  if dataset.labels is None:
    raise ValueError(
      f"models.num_classes={model.num_classes}, but the data have no labels; "
      "set models.num_classes=None or use a labelled source"
    )
  top = int(dataset.labels.max())
  if top >= model.num_classes or dataset.labels.min() < 0:
    raise ValueError(
      f"models.num_classes={model.num_classes}, but the labels run from "
      f"{dataset.labels.min()} to {top}; set it to {top + 1}"
    )

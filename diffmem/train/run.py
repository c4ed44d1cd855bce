# SPDX-License-Identifier: Apache-2.0
"""The train stage: a source and a config -> weights, metrics, previews."""

import dataclasses
import functools
import hashlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import diffmem.data
import diffmem.models
from diffmem import checkpoint, keys, mesh, processes, workdir
from diffmem.data import canaries, streams
from diffmem.denoiser import gans, trained
from diffmem.diffusion import schedules
from diffmem.train import (
  deduplication,
  examples,
  gan_program,
  gan_step,
  loop,
  privacy,
  private_step,
  stages,
  state,
  step,
  tensorboard,
)

_log = logging.getLogger(__name__)

# (parameters -> denoiser, folder) -> (step, parameters) -> None
Preview = Callable[..., Callable[[int, Any], None]]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """What trains a network, compiled at its first use, for any number of models.

  Attributes:
    model: the network, or both of a GAN.
    tx: the optimiser, or both of a GAN.
    init: key -> a fresh state on its devices.
    step: (state, batch, key) -> (state, metrics); of DP-SGD it also takes the
      noise multiplier, see `private_step`, of a GAN how many steps were made.
    limit: where a loss counts as diverged.
  """

  model: diffmem.models.Model | gans.Network
  tx: Any
  init: Callable
  step: Callable
  limit: float = math.inf


def program(
  shape: Sequence[int],
  *,
  models: dict,
  train: dict,
  diffusion: dict | None = None,
  adversarial: dict | None = None,
  augmentation: tuple[int, int] | None = None,
) -> Program:
  """The program of these config sections for images of shape [h w c].

  `adversarial` takes the place of `diffusion` for a GAN; `augmentation` is of
  super-resolution, see `stages`.
  """
  _check(train)
  if adversarial is not None:
    return _adversarial(shape, models, adversarial, train)
  assert diffusion is not None
  model = trained.network(shape, models, diffusion)
  rate = state.learning_rate(
    lr=train["lr"],
    warmup=train["warmup"],
    steps=train["steps"],
    decay=train["decay"],
  )
  tx = state.optimizer(rate, clip=train["clip"])
  schedule = schedules.create(**diffusion["schedule"])
  options: dict[str, Any] = dict(
    prediction=diffusion["prediction"],
    loss=diffusion["loss"],
    label_dropout=train["label_dropout"],
    levels=augmentation,
  )
  if train.get("privacy") is None:
    step_fn = step.create(
      model, schedule, tx, rate, ema=train["ema"], **options
    )
  else:
    step_fn = private_step.create(
      model,
      step.denoising(model, schedule, **options),
      tx,
      rate,
      ema=train["ema"],
      batch=train["batch"],
      clip=train["privacy"]["clip"],
    )
  init = _placed(functools.partial(state.init, model.init, tx))
  return Program(model, tx, init, step_fn)


def _adversarial(
  shape: Sequence[int], models: dict, adversarial: dict, train: dict
) -> Program:
  if train.get("privacy") is not None:
    raise ValueError("train.privacy is of denoisers: a GAN takes None there")
  model = gans.network(shape, models)
  parts = gan_program.parts(model.gan, adversarial, train)
  return Program(
    model,
    parts.tx,
    _placed(functools.partial(gan_step.init, parts)),
    gan_step.create(parts),
    gan_program.LIMIT,
  )


def _placed(init: Callable) -> Callable:
  return jax.jit(init, out_shardings=mesh.replicated(mesh.data_mesh()))


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
  preview: Preview | None = None,
  shared: Program | None = None,
  progress: bool = True,
) -> None:
  """Trains, or goes on training, and writes data/ and train/.

  They lie in `root`, or for data.split.shadow=i in <root>/shadows/<i>; the
  shadow's weights, batches and noise follow from (seed, "shadow", i). For
  data.upsampler=i they lie in <root>/upsamplers/<i>, see `train.stages`.

  Args:
    root: the workdir.
    seed: of the split, the weights, the batches and the noise.
    data, models, train: the config sections, as plain dicts.
    diffusion, adversarial: the section of a denoiser's loss, or of a GAN's.
    upsamplers: the super-resolution stages of a cascade.
    preview: makes the hook that draws samples while training.
    shared: the program of these sections, where several models are trained.
    progress: show the rate and the time left.

  Raises:
    ValueError, OSError: bad input, before anything is computed.
    FloatingPointError: the loss is not finite; names the step.
  """
  part = stages.sections(
    data, models, diffusion, train, upsamplers, adversarial
  )
  _check(part.train)
  folder, dataset, split = prepare(root, seed, data)
  stages.check_side(upsamplers, dataset)
  config = {"seed": seed, "data": data, **part.config}
  shape = stages.reduced_shape(dataset.images.shape[1:], part.height)
  inputs = {"dataset": dataset.info["sha256"], "split": split.digest}
  if part.height is not None:
    inputs["height"] = part.height
  if shared is None:
    shared = program(shape, **part.config)
  _check_labels(shared.model, dataset)
  canaries.check(split, shared.model.num_classes)
  texts = examples.embedded(
    folder, shared.model, dataset, split, data, progress
  )
  if texts is not None:
    inputs["captions"] = texts.digest
  private = privacy.plan(part.train, canaries.trained_on(split))
  # Four trees of float32 a checkpoint: weights, EMA, two moments; two are
  # kept while a third is written.
  size = diffmem.models.count(
    jax.eval_shape(shared.model.init, keys.root(seed))
  )
  with workdir.stage(
    folder, "train", config=config, inputs=inputs, needs=3 * 4 * 4 * size
  ) as stage:
    if stage.finished:
      _log.info("train: finished before, kept (%s)", stage.folder)
      return
    stage.record("shape", shape)
    stage.record("parameters", size)
    training = examples.of(dataset, split, part.height, texts)
    build = functools.partial(gans.build, shape, part.models)
    if part.diffusion is not None:
      build = functools.partial(
        trained.build, shape, part.models, part.diffusion
      )
    draw = None
    if preview and processes.leads():
      draw = preview(
        build,
        stage.folder / "previews",
        **examples.pictured(shared.model, training, part.train),
      )
    ema = _train(
      stage, config, shared, training, split, private, draw, progress
    )
    stage.record("weights", digest(ema))
    if private is not None:
      copies = np.bincount(training.rows)
      stage.record("privacy", private.record(copies[copies > 0].tolist()))
    stage.record("images", canaries.trained_on(split))


def prepare(root: str | os.PathLike, seed: int, data: dict):
  """(workdir of the model, dataset, split); all shadows share <root>/data."""
  folder = workdir.of(root, data)
  data = {key: value for key, value in data.items() if key != "upsampler"}
  shadow = data["split"].get("shadow")
  if shadow is not None:
    whole = {**data, "split": {**data["split"], "shadow": None}}
    diffmem.data.prepare(folder.parent.parent / "data", seed=seed, **whole)
  if data.get("dedup") is not None:
    deduplication.run(folder, seed=seed, data=data)
  dataset, split = diffmem.data.prepare(folder / "data", seed=seed, **data)
  if not len(split.members):
    raise ValueError(
      "data.split.members=0: there is no model to train but the shadows; "
      "train one with shadow=i, or all with diffmem-audit"
    )
  return folder, dataset, split


def digest(params: Any) -> str:
  """sha256 over all weights, in the order of their names."""
  found = hashlib.sha256()
  for leaf in jax.tree.leaves(params):
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()


def _train(
  stage, config, program, training, split, private, preview, progress
) -> Any:
  train, seed = config["train"], config["seed"]
  root = keys.root(seed)
  for name, number in (
    ("shadow", split.shadow),
    ("upsampler", config["data"].get("upsampler")),
  ):
    if number is not None:
      root = keys.stream(root, name, number)
      seed = streams.derived(seed, name, number)
  root = mesh.replicate(keys.stream(root, "train"), mesh.data_mesh())
  adversarial = config.get("adversarial")
  more = () if private is None else (private.noise_multiplier,)

  def step_fn(state, batch, i):
    return program.step(state, batch, root, *((i,) if adversarial else more))

  if adversarial:  # each update of a discriminator has images of its own
    train = {**train, "batch": train["batch"] * adversarial["updates"]}
  batch_at = _batches(program.model, training, train, seed)
  with checkpoint.Checkpointer(stage.folder / "checkpoints") as checkpointer:
    last = loop.loop(
      state=program.init(keys.stream(root, "init")),
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
      if train["tensorboard"] and processes.leads()
      else None,
      meta=workdir.plain(config),
      limit=program.limit,
      progress=progress,
    )
  return jax.device_get(last["ema"])


def _batches(
  model: diffmem.models.Model | gans.Network,
  training: examples.Examples,
  train: dict,
  seed: int,
) -> Callable[[int], Any]:
  """Step -> its batch, as the step takes it: whole, or in micro-batches."""
  private = train.get("privacy")
  options: dict[str, Any] = dict(
    batch=train["batch"],
    seed=seed,
    flip=train["flip"],
    shift=train.get("shift", 0),
  )
  images, labels = training.dataset.images, training.dataset.labels
  needed = {"image"} | ({"label"} if model.num_classes is not None else set())

  def chosen(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {key: x for key, x in batch.items() if key in needed}
    return found | training.beside(batch["row"])

  if private is None:
    batches = diffmem.data.Batches(images, labels, training.rows, **options)
    return lambda i: chosen(batches.at(i))
  needed |= {"slot", "real"}
  poisson = diffmem.data.PoissonBatches(
    images,
    labels,
    training.rows,
    microbatch=private["microbatch"],
    **options,
  )
  return lambda i: [chosen(part) for part in poisson.at(i)]


def _check(train: dict) -> None:
  for key in ("steps", "log_every", "checkpoint_every", "preview_every"):
    if train[key] < 1:
      raise ValueError(f"train.{key}={train[key]} must be at least 1")
  if not 0 <= train["ema"] < 1:
    raise ValueError(f"train.ema={train['ema']} must lie in [0, 1)")
  devices = jax.device_count()
  placed = {"batch": train["batch"]}  # how many examples at a time
  if train.get("privacy") is not None:
    privacy.check(train["privacy"])
    placed = {"privacy.microbatch": train["privacy"]["microbatch"]}
  for key, size in placed.items():
    if size < 1 or size % devices:
      raise ValueError(
        f"train.{key}={size} does not divide over {devices} devices; use a "
        f"multiple of {devices}"
      )


def _check_labels(model: diffmem.models.Model | gans.Network, dataset) -> None:
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

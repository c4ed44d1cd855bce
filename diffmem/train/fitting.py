# SPDX-License-Identifier: Apache-2.0
"""Fits any network to any loss per example, with the loop of the train stage.

  g = grad over theta of mean_b loss(theta, frozen, batch, key)_b

theta is trained by AdamW behind a clip of the gradient's norm; `frozen` is a
tree of arrays that the loss may read (a teacher, the weights beside adapters).
Batches and keys are functions of (seed, step): what was stopped goes on from
its last checkpoint with the very steps that it would have made.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffmem import checkpoint, keys, mesh
from diffmem.arrays import Int, Key, UInt8
from diffmem.data import Batches
from diffmem.train import loop
from diffmem.train import state as states

# (params, frozen, batch, key) -> loss of each example [b]
Loss = Callable[[Any, Any, dict[str, Any], jax.Array], jax.Array]


def check(options: dict) -> None:
  """ValueError where options of `fit` are out of range."""
  for name in ("steps", "log_every", "checkpoint_every"):
    if options[name] < 1:
      raise ValueError(f"{name}={options[name]} must be at least 1")
  if not 0 <= options["ema"] < 1:
    raise ValueError(f"ema={options['ema']} must lie in [0, 1)")
  devices = jax.device_count()
  if options["batch"] < 1 or options["batch"] % devices:
    raise ValueError(
      f"batch={options['batch']} does not divide over {devices} devices; use "
      f"a multiple of {devices}"
    )


def fit(
  folder: str | os.PathLike,
  *,
  init: Callable[..., Any],
  loss: Loss,
  frozen: Any,
  images: UInt8[Any, "n h w c"],
  labels: Int[Any, " n"],
  seed: int,
  key: Key[jax.Array, ""],
  steps: int,
  batch: int,
  lr: float,
  warmup: int,
  decay: str,
  clip: float,
  weight_decay: float,
  ema: float,
  log_every: int,
  checkpoint_every: int,
  progress: bool = True,
) -> Any:
  """The averaged weights on the host, trained or read from the folder.

  Args:
    folder: of checkpoints/ and metrics.jsonl; of this fit alone.
    init: key -> fresh weights.
    loss: see the module; batches hold "image" uint8 and "label" int32.
    frozen: what the loss reads and nobody trains.
    images, labels: the training set.
    seed: of the order of batches; key: of weights and noise.
    steps, ..., checkpoint_every: as in the train stage's config.
    progress: show the rate and the time left.

  Raises:
    ValueError: an option is out of range.
    FloatingPointError: the loss is not finite; names the step.
  """
  check(
    dict(steps=steps, log_every=log_every, checkpoint_every=checkpoint_every)
    | dict(ema=ema, batch=batch)
  )
  rate = states.learning_rate(lr=lr, warmup=warmup, steps=steps, decay=decay)
  tx = optax.chain(
    optax.clip_by_global_norm(clip),
    optax.adamw(rate, weight_decay=weight_decay),
  )
  devices = mesh.data_mesh()
  whole = mesh.replicated(devices)
  step = _step(loss, tx, rate, ema)
  frozen, key = mesh.replicate((frozen, key), devices)
  batches = Batches(
    images,
    labels,
    np.arange(len(images)),
    batch=batch,
    seed=seed,
    flip=False,
  )
  start = jax.jit(lambda k: states.init(init, tx, k), out_shardings=whole)

  def batch_at(i: int) -> dict[str, Any]:
    found = batches.at(i)
    return {name: found[name] for name in ("image", "label")}

  with checkpoint.Checkpointer(
    os.path.join(folder, "checkpoints")
  ) as checkpointer:
    last = loop.loop(
      state=start(keys.stream(key, "init")),
      step_fn=lambda state, batch, _: step(state, batch, frozen, key),
      batch_at=batch_at,
      steps=steps,
      checkpointer=checkpointer,
      metrics=checkpointer.folder.parent / "metrics.jsonl",
      log_every=log_every,
      checkpoint_every=checkpoint_every,
      preview_every=steps,
      preview=None,
      writer=None,
      meta={},
      progress=progress,
    )
  return jax.device_get(last["ema"])


def _step(loss: Loss, tx: Any, rate: optax.Schedule, ema: float) -> Callable:
  """The jitted step: (state, batch, frozen, key) -> (state, metrics)."""

  def step(state, batch, frozen, key):
    now = keys.stream(key, "step", state["step"])

    def mean(params):
      return loss(params, frozen, batch, now).mean()

    value, grads = jax.value_and_grad(mean)(state["params"])
    updates, opt = tx.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    metrics = {
      "loss": value,
      "grad_norm": optax.tree.norm(grads),
      "lr": rate(state["step"]),
      "images": jnp.asarray(len(batch["image"])),
    }
    new = {
      "step": state["step"] + 1,
      "params": params,
      "ema": states.average(state["ema"], params, state["step"], ema),
      "opt": opt,
    }
    return new, metrics

  whole = mesh.replicated(mesh.data_mesh())
  rows = mesh.sharded(mesh.data_mesh())
  return jax.jit(
    step,
    in_shardings=(whole, rows, whole, whole),
    out_shardings=(whole, whole),
    donate_argnums=0,
  )

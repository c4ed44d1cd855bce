# SPDX-License-Identifier: Apache-2.0
"""The training loop: restore, then step, log, checkpoint, preview.

It receives ready-made objects and knows no config. The batch and the noise of
a step are functions of (seed, step) alone, so a run that was killed goes on
from its last checkpoint with the very steps that it would have made.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffmem import checkpoint, mesh, processes, workdir
from diffmem.progress import Progress

_log = logging.getLogger(__name__)
_SECONDS = 60  # between two times that metrics.jsonl is put on a bucket


def loop(
  *,
  state: dict[str, Any],
  step_fn: Callable[[Any, Any, int], tuple[Any, dict[str, jax.Array]]],
  batch_at: Callable[[int], Any],
  steps: int,
  checkpointer: checkpoint.Checkpointer,
  metrics: os.PathLike,
  log_every: int,
  checkpoint_every: int,
  preview_every: int,
  preview: Callable[[int, Any], None] | None,
  writer: Callable[[dict], None] | None,
  meta: dict,
  limit: float = math.inf,
  progress: bool = True,
) -> dict[str, Any]:
  """Trains up to `steps` and returns the last state.

  Args:
    state: a fresh state, placed on its devices; donated.
    step_fn: (state, batch, steps made before) -> (state, metrics of the step,
      each the mean over its batch).
    batch_at: step -> batch, a tree of host arrays with the batch axis first.
    steps: the step to stop at.
    checkpointer: where states are kept.
    metrics: the JSON lines file.
    log_every: steps between lines; checkpoint_every, preview_every: likewise.
    preview: called with (step, EMA parameters); None for no pictures.
    writer: called with each line of metrics; None for none.
    meta: kept inside each checkpoint.
    limit: losses and gradients of this size are those of a training that
      will not come back.
    progress: show the rate and the time left.

  Raises:
    FloatingPointError: a loss or gradient is not finite, or beyond the limit;
      names the step.
  """
  # Resume order: 1. the state, 2. the metrics up to its step, 3. the batches,
  # which need nothing but the step.
  state, first = _restore(state, checkpointer)
  lines = _Metrics(metrics, first, writer)
  devices = mesh.data_mesh()
  pending: list[dict[str, jax.Array]] = []

  def flush(step: int) -> dict[str, str]:
    """Reads the steps since the last flush; stops on the first bad one."""
    values = jax.device_get(pending)
    pending.clear()
    for back, value in zip(range(len(values), 0, -1), values, strict=True):
      _check(step - back + 1, value, limit, checkpointer)
    return lines.write(step, values)

  with Progress(
    steps, what="train", unit="steps", done=first, enabled=progress
  ) as bar:
    for step in range(first + 1, steps + 1):
      batch = mesh.shard(batch_at(step - 1), devices)
      state, values = step_fn(state, batch, step - 1)
      pending.append(values)
      save = step % checkpoint_every == 0 or step == steps
      if step % log_every == 0 or save:
        bar.update(len(pending), **flush(step))
      if save:
        lines.keep()
        parts = {"ema": state["ema"], "state": _without_ema(state)}
        checkpointer.save(step, parts, meta=meta)
      if preview and (step % preview_every == 0 or step == steps):
        preview(step, mesh.local(state["ema"]))
  checkpointer.wait()
  return state


def _without_ema(state: dict[str, Any]) -> dict[str, Any]:
  return {key: value for key, value in state.items() if key != "ema"}


def _restore(
  state: dict[str, Any], checkpointer: checkpoint.Checkpointer
) -> tuple[dict[str, Any], int]:
  first = checkpointer.latest()
  if first is None:
    return state, 0
  sharding = mesh.replicated(mesh.data_mesh())
  shapes = checkpoint.abstract(
    {"ema": state["ema"], "state": _without_ema(state)}, sharding
  )
  parts = checkpointer.restore(shapes, first)
  _log.info("train: goes on from the checkpoint of step %d", first)
  return {**parts["state"], "ema": parts["ema"]}, first


def _check(step: int, value: dict, limit: float, checkpointer) -> None:
  bad = [key for key, v in value.items() if not np.isfinite(v)]
  what = "not finite"
  if not bad:
    bad = [key for key, v in value.items() if abs(v) >= limit]
    what = f"beyond {limit:g}"
  if not bad:
    return
  checkpointer.wait()
  raise FloatingPointError(
    f"training: {' and '.join(bad)} {what} at step {step}; the last good "
    f"checkpoint is that of step {checkpointer.latest() or 0} in "
    f"{checkpointer.folder}; lower the learning rate and use another --workdir"
  )


class _Metrics:
  """metrics.jsonl: one line for each log, none for a step redone."""

  def __init__(self, file: os.PathLike, first: int, writer):
    self._file = workdir.path(file)
    self._writer = writer
    self._lines = _lines_up_to(self._file, first)
    self._seconds = self._lines[-1]["seconds"] if self._lines else 0.0
    self.keep()
    self._start = self._last = time.monotonic()

  def write(self, step: int, values: list[dict]) -> dict[str, str]:
    now = time.monotonic()
    images = sum(int(v["images"]) for v in values)
    line: dict[str, int | float] = {"step": step}
    for key in dict.fromkeys(name for v in values for name in v):
      if key not in ("images", "lr"):  # some come every few steps alone
        line[key] = float(np.mean([v[key] for v in values if key in v]))
    line["lr"] = float(values[-1]["lr"])
    line["images_per_second"] = round(images / max(now - self._last, 1e-9), 1)
    line["seconds"] = round(self._seconds + now - self._start, 3)
    self._last = now
    self._lines.append(line)
    if not processes.leads():
      pass
    elif workdir.is_local(self._file):
      with open(self._file, "a") as f:
        f.write(json.dumps(line) + "\n")
    elif now - self._kept > _SECONDS:
      self.keep()
    if self._writer:
      self._writer(line)
    return {"loss": f"{line['loss']:.4f}"}

  def keep(self) -> None:
    """Writes the file whole: before each checkpoint, which lines may not miss.

    A bucket cannot append. There lines also come out once in _SECONDS; those
    of steps after the last checkpoint are made again by a run that goes on.
    """
    text = "".join(json.dumps(line) + "\n" for line in self._lines)
    workdir.write_bytes(self._file, text.encode())
    self._kept = time.monotonic()


def _lines_up_to(file, step: int) -> list[dict]:
  """Whole lines of steps up to `step`; a killed run may leave half a line."""
  if step == 0 or not file.exists():
    return []
  lines = []
  for text in file.read_text().splitlines():
    try:
      line = json.loads(text)
    except ValueError:
      continue
    if line["step"] <= step:
      lines.append(line)
  return lines

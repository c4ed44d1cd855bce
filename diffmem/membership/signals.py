# SPDX-License-Identifier: Apache-2.0
"""Signals: what is computed of a model for each image, and kept.

A signal is a function of one block of images, or of conditions alone (of
prompts); attacks are functions of what it gave. `compute` runs it over all of
them: blocks of one shape, sharded over the local devices, the weights placed
once; what is finished goes to a store and is not computed again. Memory does
not grow with the number of images. Of several processes each computes its part
of the blocks of a store.
"""

import dataclasses
import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import arrays, mesh, processes, store
from diffmem.arrays import AnyArray, Float, Int
from diffmem.denoiser import Denoiser, conditions
from diffmem.membership.queries import Queries
from diffmem.progress import Progress

_log = logging.getLogger(__name__)

Cond = conditions.Cond
HELD = 1 << 30  # bytes; a larger result is given as its store


@dataclasses.dataclass(frozen=True)
class Signal:
  """One thing to know of an image, at each of some times.

  Attributes:
    name: as in a path, and in errors.
    block: block(queries, images [b h w c], cond, *, t, **options) -> a list
      of arrays [b ...] on the devices, not waited for. Stacked behind the
      batch axis they are [b, *shape] in row-major order. images are float32
      in [-1, 1], None for a signal of conditions alone; `queries` is a
      `queries.Queries`.
    shape: shape(denoiser, *, t, **options) -> the axes behind the batch, the
      first one t. Raises ValueError for options that cannot be.
  """

  name: str
  block: Callable[..., list]
  shape: Callable[..., tuple[int, ...]]

  @functools.cached_property
  def options(self) -> tuple[str, ...]:
    """Names of the options that `block` takes."""
    return keywords(self.block)


def keywords(function: Callable) -> tuple[str, ...]:
  """Names of the keyword-only arguments of a function, t left out."""
  parameters = inspect.signature(function).parameters.values()
  names = (p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
  return tuple(name for name in names if name != "t")


def compute(
  denoiser: Denoiser,
  images: Any,
  signal: Signal,
  *,
  t: Sequence[int],
  batch: int = 512,
  cond: Cond = None,
  ids: Int[np.ndarray, " n"] | None = None,
  path: str | os.PathLike | None = None,
  progress: bool = True,
  **options: Any,
) -> Float[np.ndarray, "n ..."] | store.Store:
  """The signal of each image, float32 [n t ...].

  Args:
    denoiser: the model.
    images: [n h w c], uint8, or floats in [-1, 1]; an array, a bank or a
      store: rows are read a block at a time. None for a signal of conditions.
    signal: what to compute.
    t: schedule indices, 0 the least noise.
    batch: images at a time (rounded up to a multiple of the devices); results
      do not depend on it beyond rounding.
    cond: a class label (an embedding, a tree of arrays) for each image; where
      a model with conditions is given none, its null condition.
    ids: names of the images in an error.
    path: a store that keeps finished blocks of `batch` images; what it holds
      is not computed again. The caller answers for its being of this model
      and of these options. A result above 1 GiB is returned as this store.
    progress: show the rate and the time left.
    **options: those of the signal.

  Raises:
    ValueError: images, times or options that the model cannot take.
    FloatingPointError: a value is not finite; names the ids.
  """
  t = tuple(int(s) for s in t)
  check_times(denoiser, t, batch)
  if images is None:
    cond = conditions.check(denoiser, cond)
    n, what = conditions.count(cond), "prompts"
  else:
    check_images(images, denoiser)
    n, what = len(images), "images"
    cond = _cond(denoiser, cond, n)
  shape = (n, *signal.shape(denoiser, t=t, **options))
  names = np.arange(n) if ids is None else np.asarray(ids)
  if len(names) != n:
    raise ValueError(f"{len(names)} ids for {n} {what}: give one for each")
  batch = min(batch, n)
  run = functools.partial(signal.block, t=t, **options)
  finite = functools.partial(_check_finite, f"{signal.name} of", what, names, t)
  kept = None
  if path is None:
    made: Any = np.empty(shape, np.float32)
  else:
    made = kept = store.create(path, shape=shape, dtype="float32", chunk=batch)
  with Progress(
    n,
    what=f"membership: {signal.name}",
    unit=what,
    done=_there(kept),
    enabled=progress,
  ) as bar:
    for numbers in _parts(kept, -(-n // batch), bar):
      starts = [number * batch for number in numbers]
      found = _blocks(denoiser, images, run, starts, batch, cond, n)
      for start, leaves in found:
        count = min(batch, n - start)
        values = _stacked(leaves, count, shape[1:])
        finite(start, values)
        if kept is None:
          made[start : start + count] = values
        else:
          kept.write(start // batch, values)
        bar.update(count)
  large = np.prod(shape, dtype=np.int64) * 4 > HELD
  return made if kept is None or large else kept[:]


def _there(kept: store.Store | None) -> int:
  """How many images the store has."""
  if kept is None:
    return 0
  rows = map(kept.rows, kept.written())
  return sum(part.stop - part.start for part in rows)


def _parts(
  kept: store.Store | None, total: int, bar: Progress
) -> Iterator[list[int]]:
  """The blocks that are this process's to compute; all where none is kept."""
  if kept is None:
    yield list(range(total))
    return
  damaged = kept.damaged(processes.share(kept.written()))
  if damaged:
    raise ValueError(damaged)
  yield from processes.parts(
    kept.written,
    kept.chunks,
    what="/".join(os.fspath(kept.path).split("/")[-2:]),
    meanwhile=lambda: bar.reach(_there(kept)),
  )


def _blocks(
  denoiser: Denoiser,
  images: Any,
  run: Callable,
  starts: list[int],
  batch: int,
  cond: Any,
  n: int,
) -> Iterator[tuple[int, list[np.ndarray]]]:
  """(start, what `run` gave) of each block; one is queued while one runs.

  Blocks that are compiled have one shape, the last one is padded. On the
  host nothing is padded or queued, for a query may be dear.
  """
  if not starts:
    return
  devices = mesh.local_mesh(min(batch, jax.local_device_count()))
  queries = Queries(denoiser, devices)
  waiting = []
  for start in starts:
    rows = np.arange(start, min(start + batch, n))
    block = None
    if images is not None:
      block = np.asarray(images[rows[0] : rows[-1] + 1])
      check_range(block)
    labels = _rows(cond, denoiser, rows)
    if denoiser.traceable:
      size = -(-batch // devices.size) * devices.size
      padded = np.pad(rows, (0, size - len(rows)), mode="edge") - start
      block, labels = conditions.take((block, labels), padded)
      block, labels = mesh.shard((block, labels), devices)
    block = None if block is None else floats(block)
    waiting.append((start, run(queries, block, labels)))
    if len(waiting) > int(denoiser.traceable):
      first, leaves = waiting.pop(0)
      yield first, jax.device_get(leaves)
  for first, leaves in waiting:
    yield first, jax.device_get(leaves)


def _stacked(
  leaves: list[np.ndarray], count: int, shape: tuple[int, ...]
) -> Float[np.ndarray, "b ..."]:
  rows = [np.asarray(leaf)[:count] for leaf in leaves]
  return np.stack(rows, 1).astype(np.float32).reshape(count, *shape)


@jax.jit
def floats(images: AnyArray) -> Float[jax.Array, "b h w c"]:
  """Images uint8 or float as float32 in [-1, 1]."""
  if images.dtype == jnp.uint8:
    return arrays.from_uint8(images)
  return jnp.asarray(images, jnp.float32)


def _cond(denoiser: Denoiser, cond: Cond, n: int) -> Cond:
  if cond is not None:
    return conditions.check(denoiser, cond, n)
  if denoiser.null_cond is not None:
    _log.info("membership: no labels, the null condition is used")
  return None


def _rows(cond: Cond, denoiser: Denoiser, rows: Int[np.ndarray, " b"]) -> Cond:
  """The conditions of some rows, or the null condition for each."""
  if cond is not None:
    return conditions.take(cond, rows)
  return conditions.repeat(conditions.null(denoiser), len(rows))


def check_images(images: Any, denoiser: Denoiser) -> None:
  """ValueError unless the model can take them: uint8 or in [-1, 1]."""
  shape, given = tuple(denoiser.shape), tuple(images.shape)
  latents = denoiser.encode is not None  # it answers for its own input
  if len(given) != 4 or not (latents or given[1:] == shape):
    raise ValueError(
      f"images have shape {given}, the model takes "
      f"[n, {', '.join(map(str, shape))}]: crop or resize them alike"
    )
  if not given[0]:
    raise ValueError("0 images: give at least one")
  if images.dtype != np.uint8 and not jnp.issubdtype(
    images.dtype, jnp.floating
  ):
    raise ValueError(
      f"images are {images.dtype}: give uint8, or floats in [-1, 1]"
    )
  if isinstance(images, np.ndarray | jax.Array):  # others, block by block
    check_range(images)


def check_range(images: AnyArray) -> None:
  """ValueError unless uint8, or floats in [-1, 1]."""
  if images.dtype == np.uint8:
    return
  low, high = float(np.min(images)), float(np.max(images))
  if not -1.0001 <= low <= high <= 1.0001:  # NaN fails too
    raise ValueError(
      f"images reach from {low:g} to {high:g}: give floats in [-1, 1], or uint8"
    )


def check_times(denoiser: Denoiser, t: Sequence[int], batch: int) -> None:
  """ValueError unless there is something to compute."""
  if not len(t) or len(set(t)) != len(t):
    raise ValueError(f"t = {tuple(t)}: give one or more distinct times")
  denoiser.schedule.check(*t)
  at_least_one(batch=batch)


def at_least_one(**counts: int) -> None:
  """ValueError naming the first count below 1."""
  for name, value in counts.items():
    if value < 1:
      raise ValueError(f"{name} = {value}, expected at least 1")


def _check_finite(
  signal: str,
  what: str,
  names: np.ndarray,
  t: Sequence[int],
  start: int,
  block: Float[np.ndarray, "b t ..."],
) -> None:
  """FloatingPointError naming images and times; row 0 is image `start`."""
  finite = np.isfinite(block).reshape(*block.shape[:2], -1)
  bad: Any = ~finite.all(2)
  if not bad.any():
    return
  first = names[start + np.flatnonzero(bad.any(1))]
  ids = ", ".join(map(str, first[:5])) + (", ..." if len(first) > 5 else "")
  if bad.shape[1] == len(t):  # else a signal that sums over t
    t = [s for i, s in enumerate(t) if bad[:, i].any()]
  raise FloatingPointError(
    f"not finite: {signal} {len(first)} {what} at t = "
    f"{', '.join(map(str, t))} (ids {ids}); check the weights and the {what}"
  )

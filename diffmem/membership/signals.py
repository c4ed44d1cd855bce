# SPDX-License-Identifier: Apache-2.0
"""Per-example denoising losses under common noise: what attacks start from.

  loss[i, t, j] = mean over pixels of (eps_hat(x_t, t) - eps_tj)^2,
  x_t = sqrt(ab_t) x_i + sqrt(1 - ab_t) eps_tj

eps_tj is draw j at time t, a function of (seed, t, j) alone: it is the same
for every image and every model, so that in a comparison of images, or of
models, the noise of the noise cancels. It is the loss that training uses.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import arrays, keys, mesh, store
from diffmem.arrays import AnyArray, Float, Int
from diffmem.denoiser import Denoiser
from diffmem.diffusion.losses import denoising_loss
from diffmem.progress import Progress

Cond = Int[np.ndarray, " n"] | None


def losses(
  denoiser: Denoiser,
  images: AnyArray,
  *,
  t: Sequence[int],
  draws: int,
  seed: int,
  batch: int = 512,
  cond: Cond = None,
  ids: Int[np.ndarray, " n"] | None = None,
  path: str | os.PathLike | None = None,
  progress: bool = True,
) -> Float[np.ndarray, "n t draws"]:
  """The losses of each image at each t under each draw of noise, float32.

  Args:
    denoiser: the model.
    images: [n h w c], uint8, or floats in [-1, 1].
    t: schedule indices, 0 the least noise.
    draws, seed: of the noise, at each t.
    batch: images at a time (rounded up to a multiple of the devices); results
      do not depend on it beyond rounding.
    cond: a class label for each image; where a model with labels is given
      none, its null condition.
    ids: names of the images in an error.
    path: a store that keeps finished blocks of `batch` images; what it holds
      is not computed again. The caller answers for its being of this model.
    progress: show the rate and the time left.

  Raises:
    ValueError: images or times that the model cannot take.
    FloatingPointError: a loss is not finite; names the ids.
  """
  check_images(images, denoiser)
  check_times(denoiser, t, draws, batch)
  n = len(images)
  cond = _cond(denoiser, cond, n)
  names = np.arange(n) if ids is None else ids
  batch = min(batch, n)
  out = np.empty((n, len(t), draws), np.float32)
  kept, done = _kept(path, out, batch)
  starts = [s for s in range(0, n, batch) if s // batch not in done]
  finished = n - sum(min(batch, n - s) for s in starts)
  with Progress(
    n, what="membership", unit="images", done=finished, enabled=progress
  ) as bar:
    for start, block in _blocks(
      denoiser, images, starts, batch, cond, t, draws, seed
    ):
      rows = slice(start, start + len(block))
      _check_finite(block, names[rows], t)
      out[rows] = block
      if kept is not None:
        kept.write(start // batch, block)
      bar.update(len(block))
  return out


def _kept(
  path: str | os.PathLike | None,
  out: Float[np.ndarray, "n t draws"],
  chunk: int,
) -> tuple[store.Store | None, list[int]]:
  """The store, if any, and its finished chunks, which are read into `out`."""
  if path is None:
    return None, []
  kept = store.create(path, shape=out.shape, dtype="float32", chunk=chunk)
  done = kept.written()
  for number in done:
    out[kept.rows(number)] = kept[kept.rows(number)]
  return kept, done


@functools.lru_cache(maxsize=1)  # the next call may be at another t
def loss_fn(denoiser: Denoiser) -> Callable:
  """(params, images [b h w c], t, eps [h w c], cond) -> loss [b].

  Compiled where the denoiser can be traced; images uint8 or in [-1, 1].
  """

  def one(params: Any, images, t, eps, cond):
    x0 = arrays.from_uint8(images) if images.dtype == np.uint8 else images
    if denoiser.encode is not None:
      x0 = denoiser.encode(x0)
    return denoising_loss(
      lambda x_t, times, c: denoiser.predict(params, x_t, times, c)[0],
      x0,
      jnp.full(len(x0), t, jnp.int32),
      jnp.broadcast_to(eps[None], x0.shape),
      cond,
      schedule=denoiser.schedule,
    )

  return jax.jit(one) if denoiser.traceable else one


@functools.partial(jax.jit, static_argnums=(0, 3))
def noise(
  seed: int,
  t: int | Int[jax.Array, ""],
  draw: int | Int[jax.Array, ""],
  shape: tuple[int, ...],
) -> Float[jax.Array, "..."]:
  """Draw j at time t: a function of (seed, t, j) and the shape alone."""
  key = keys.stream(keys.root(seed), "membership noise", t, draw)
  return jax.random.normal(key, shape)


def _blocks(
  denoiser: Denoiser,
  images: AnyArray,
  starts: list[int],
  batch: int,
  cond: Cond,
  t: Sequence[int],
  draws: int,
  seed: int,
) -> Iterator[tuple[int, Float[np.ndarray, "b t draws"]]]:
  """Blocks of one shape, the last one padded, sharded over the devices."""
  if not starts:
    return
  devices = mesh.local_mesh(min(batch, jax.local_device_count()))
  size = -(-batch // devices.size) * devices.size
  one, shape = loss_fn(denoiser), tuple(denoiser.shape)
  params = denoiser.params
  if denoiser.traceable:
    params = mesh.replicate(params, devices)  # once, not at every call
  for start in starts:
    rows = np.arange(start, min(start + batch, len(images)))
    padded = np.pad(rows, (0, size - len(rows)), mode="edge")
    block = np.asarray(images[rows])[padded - start]
    labels = None if cond is None else cond[padded]
    if denoiser.traceable:
      block, labels = mesh.shard((block, labels), devices)
    waiting = []
    for s in t:
      eps = (noise(seed, s, j, shape) for j in range(draws))
      waiting.append([one(params, block, s, e, labels) for e in eps])
    values = np.stack([np.stack(jax.device_get(w), -1) for w in waiting], 1)
    yield start, values[: len(rows)].astype(np.float32)


def _cond(denoiser: Denoiser, cond: Cond, n: int) -> Cond:
  if cond is not None:
    if len(cond) != n:
      raise ValueError(f"{len(cond)} labels for {n} images: give one for each")
    top = denoiser.num_classes
    if top is not None and not 0 <= np.min(cond) <= np.max(cond) <= top:
      raise ValueError(
        f"labels run from {np.min(cond)} to {np.max(cond)}, the model has "
        f"classes 0..{top - 1}: give the labels that it was trained on"
      )
    return np.asarray(cond, np.int32)
  if denoiser.null_cond is None or np.ndim(denoiser.null_cond):
    return None
  logging.info("membership: no labels, the null condition is used")
  return np.full(n, denoiser.null_cond, np.int32)


def check_images(images: AnyArray, denoiser: Denoiser) -> None:
  """ValueError unless the model can take them: uint8 or in [-1, 1]."""
  shape = tuple(denoiser.shape)
  latents = denoiser.encode is not None  # it answers for its own input
  if images.ndim != 4 or not (latents or images.shape[1:] == shape):
    raise ValueError(
      f"images have shape {tuple(images.shape)}, the model takes "
      f"[n, {', '.join(map(str, shape))}]: crop or resize them alike"
    )
  if not len(images):
    raise ValueError("0 images: give at least one")
  if images.dtype == np.uint8:
    return
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f"images are {images.dtype}: give uint8, or floats in [-1, 1]"
    )
  low, high = float(np.min(images)), float(np.max(images))
  if not -1.0001 <= low <= high <= 1.0001:  # NaN fails too
    raise ValueError(
      f"images reach from {low:g} to {high:g}: give floats in [-1, 1], or uint8"
    )


def check_times(
  denoiser: Denoiser, t: Sequence[int], draws: int, batch: int
) -> None:
  """ValueError unless there is something to compute."""
  if not len(t) or len(set(t)) != len(t):
    raise ValueError(f"t = {tuple(t)}: give one or more distinct times")
  denoiser.schedule.check(*t)
  for name, value in (("draws", draws), ("batch", batch)):
    if value < 1:
      raise ValueError(f"{name} = {value}, expected at least 1")


def _check_finite(
  block: Float[np.ndarray, "b t draws"], ids, t: Sequence[int]
) -> None:
  bad = ~np.isfinite(block)
  if not bad.any():
    return
  first = np.asarray(ids)[bad.any((1, 2))]
  names = ", ".join(map(str, first[:5])) + (", ..." if len(first) > 5 else "")
  times = ", ".join(str(s) for i, s in enumerate(t) if bad[:, i].any())
  raise FloatingPointError(
    f"the loss of {len(first)} images is not finite at t = {times} (ids "
    f"{names}); check the weights and the images"
  )

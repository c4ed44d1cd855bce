# SPDX-License-Identifier: Apache-2.0
"""A bank of generated images: ids -> images on all local devices -> a store.

The ids of a bank are cut into blocks of fixed boundaries, one block a chunk of
the store and a call of one device. Image i is a function of (weights, seed, i)
alone; a bank that was stopped is filled where chunks are missing, with the
same blocks, and so is bit-identical to one made without a stop. Of several
processes each makes its part of the chunks.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import arrays, mesh, processes, store, workdir
from diffmem.arrays import AnyArray, Bool, Int, Key, UInt8
from diffmem.progress import Progress

# (params, ids [b], key) -> float images [b h w c] in [-1, 1]
Generate = Callable[[Any, Any, jax.Array], jax.Array]
BACKENDS = ("pmap", "jit", "host")


class Bank:
  """Generated images as an array: bank[ids] is uint8 [n h w c].

  Made by `open_bank`; `ids` are 0..n-1, `meta` is what made them.

  Attributes:
    prompts: distinct prompt texts; the position is the prompt's id. None
      where the images are not grouped.
    prompt_ids: int64 [n], the prompt of each image, -1 for none; or None.
    names: a name of each image, only ever shown; or None.
  """

  def __init__(
    self,
    images: store.Store,
    meta: dict,
    *,
    prompts: tuple[str, ...] | None = None,
    prompt_ids: Int[np.ndarray, " n"] | None = None,
    names: tuple[str, ...] | None = None,
  ):
    self._images = images
    self.meta = meta
    self.prompts, self.prompt_ids, self.names = prompts, prompt_ids, names
    self.shape, self.dtype = images.shape, images.dtype
    self.ids = np.arange(len(images))

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index) -> np.ndarray:
    return self._images[index]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.asarray(self._images[:], dtype=dtype)

  def blocks(self):
    """(slice of ids, uint8 images) chunk by chunk, in constant memory."""
    return self._images.blocks()


def open_bank(path: str | os.PathLike) -> Bank:
  """Opens a finished bank.

  Args:
    path: a workdir, its `sample` folder, or the zarr array itself.

  Raises:
    FileNotFoundError: there is no bank.
    ValueError: it is not complete yet, or what lies beside the images is not
      of these images.
  """
  path = workdir.path(path)
  for images in (path, path / "images", path / "sample" / "images"):
    if (images / "zarr.json").exists():
      break
  else:
    raise FileNotFoundError(
      f"{path} holds no bank (no zarr.json in it, in images/ or in "
      "sample/images/); run diffmem-sample first"
    )
  opened = store.open(images)
  if not opened.complete():
    raise ValueError(
      f"{images} is still being written or was left unfinished: "
      f"{len(opened.written())} of {opened.chunks} chunks are there; rerun "
      "diffmem-sample, it goes on where it stopped"
    )
  meta = images.parent / "meta.json"
  return Bank(
    opened,
    workdir.read_json(meta) if meta.exists() else {},
    **_beside(images.parent, len(opened)),
  )


def write_beside(
  folder: os.PathLike,
  *,
  prompts: Sequence[str] | None = None,
  prompt_ids: Int[np.ndarray, " n"] | None = None,
  names: Sequence[str] | None = None,
) -> None:
  """Writes what `open_bank` reads beside the images, where it is known.

  Args:
    folder: the `sample` folder.
    prompts: distinct texts; the position is the prompt's id.
    prompt_ids: the prompt of each image, -1 for none.
    names: a name of each image.
  """
  folder = workdir.path(folder)
  if prompts is not None and prompt_ids is not None:
    workdir.write_json(folder / "prompts.json", list(prompts))
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(prompt_ids, np.int64), allow_pickle=False)
    workdir.write_bytes(folder / "prompt_ids.npy", buffer.getvalue())
  if names is not None:
    workdir.write_json(folder / "names.json", list(names))


def _beside(folder: os.PathLike, n: int) -> dict[str, Any]:
  """prompts, prompt_ids and names of a bank of n images, those there are."""
  folder = workdir.path(folder)
  found: dict[str, Any] = {}
  for name in ("prompts", "names"):
    file = folder / f"{name}.json"
    if file.exists():
      found[name] = tuple(workdir.read_json(file))
  if "names" in found and len(found["names"]) != n:
    raise ValueError(
      f"{folder / 'names.json'} has {len(found['names'])} names for {n} "
      "images; delete the folder and rerun diffmem-sample"
    )
  if "prompts" not in found:
    return found
  file = folder / "prompt_ids.npy"
  if not file.exists():
    raise ValueError(
      f"{folder} has prompts.json without prompt_ids.npy; delete the folder "
      "and rerun diffmem-sample"
    )
  with file.open("rb") as f:
    ids = np.load(f, allow_pickle=False)
  if ids.shape != (n,) or ids.min() < -1 or ids.max() >= len(found["prompts"]):
    raise ValueError(
      f"{file} does not give each of {n} images one of "
      f"{len(found['prompts'])} prompts; delete the folder and rerun "
      "diffmem-sample"
    )
  return found | {"prompt_ids": ids.astype(np.int64)}


def digest(meta: dict) -> str:
  """Of what made a bank, from its meta.json: later stages hold to it."""
  return workdir.digest([meta["config"], meta["inputs"], meta.get("pixels")])


def fill(
  images: store.Store,
  generate: Generate,
  params: Any,
  key: Key[jax.Array, ""],
  *,
  backend: str = "pmap",
  progress: bool = True,
) -> None:
  """Makes every image that the store still lacks.

  Args:
    images: uint8 [n h w c]; its chunk is the block of one device.
    generate: a pure function of (params, ids, key); any function of them for
      the backend "host".
    params: the weights, placed on the devices once.
    key: the root of the noise of all ids.
    backend: "pmap", "jit" over a sharded axis, or "host" for a function that
      JAX cannot trace: it is called as it is, one block after another.
    progress: show the rate and the time left.

  Raises:
    FloatingPointError: an image is not finite; names the ids.
    ValueError: a chunk that is there is damaged.
    RuntimeError: another process died, and what it owes is missing.
  """
  done = images.written()
  damaged = images.damaged(processes.share(done))
  if damaged:
    raise ValueError(damaged)

  def there() -> int:
    return sum(_size(images, number) for number in images.written())

  with Progress(
    len(images), what="sample", unit="images", done=there(), enabled=progress
  ) as bar:
    blocks = None
    for missing in processes.parts(
      images.written,
      images.chunks,
      what="the bank",
      meanwhile=lambda: bar.reach(there()),
    ):
      if blocks is None:
        blocks = _Blocks(generate, params, key, backend, len(missing))
      for numbers, made in blocks.make(images, missing):
        bar.update(_write(images, numbers, made))


class _Blocks:
  """Makes blocks of images on all local devices, compiled once."""

  def __init__(
    self,
    generate: Generate,
    params: Any,
    key: Key[jax.Array, ""],
    backend: str,
    most: int,
  ):
    devices = jax.local_device_count() if backend != "host" else 1
    self._devices = min(devices, most)
    local = mesh.local_mesh(self._devices)
    self._block = _blocks(generate, backend, local)
    if backend != "host":  # placed once: pmap would copy at every call
      params = mesh.replicate(params, local)
    self._params, self._key = params, key

  def make(
    self, images: store.Store, missing: list[int]
  ) -> Iterator[tuple[list[int], Any]]:
    """(chunk numbers, what was made); one call runs while one is written."""
    waiting = None
    for start in range(0, len(missing), self._devices):
      numbers = missing[start : start + self._devices]
      ids = _ids(images, numbers, self._devices)
      made = self._block(self._params, ids, self._key)
      if waiting:
        yield waiting
      waiting = numbers, made
    if waiting:
      yield waiting


def _blocks(generate: Generate, backend: str, local: jax.sharding.Mesh):
  """(params, ids [devices b], key) -> (uint8 images, finite), same axes."""

  def one(
    params: Any, ids: Int[AnyArray, " b"], key: Key[jax.Array, ""]
  ) -> tuple[UInt8[jax.Array, "b h w c"], Bool[jax.Array, " b"]]:
    x = jnp.asarray(generate(params, ids, key))
    return arrays.to_uint8(x), jnp.isfinite(x).all((1, 2, 3))

  axes = (None, 0, None)
  if backend == "pmap":
    return jax.pmap(one, in_axes=axes, devices=list(local.devices.flat))
  if backend == "host":
    return lambda params, ids, key: [y[None] for y in one(params, ids[0], key)]
  if backend != "jit":
    raise ValueError(f"sample.backend={backend!r} is none of {list(BACKENDS)}")
  whole, rows = mesh.replicated(local), mesh.sharded(local)
  return jax.jit(
    jax.vmap(one, in_axes=axes),
    in_shardings=(whole, rows, whole),
    out_shardings=rows,
  )


def _ids(images, numbers: list[int], devices: int) -> Int[np.ndarray, "d b"]:
  """Block boundaries never move: the last block runs past n and is cut."""
  padded = numbers + [numbers[-1]] * (devices - len(numbers))
  first = np.asarray(padded, np.int64)[:, None] * images.chunk
  return (first + np.arange(images.chunk)).astype(np.int32)


def _size(images: store.Store, number: int) -> int:
  rows = images.rows(number)
  return rows.stop - rows.start


def _write(images: store.Store, numbers: list[int], made) -> int:
  values, finite = jax.device_get(made)
  for i, number in enumerate(numbers):
    size = _size(images, number)
    if not finite[i, :size].all():
      bad = images.rows(number).start + np.flatnonzero(~finite[i, :size])
      raise FloatingPointError(
        f"sampling: {len(bad)} images are not finite, the first has id "
        f"{bad[0]}; check the weights, or lower sample.guidance"
      )
    images.write(number, values[i, :size])
  return sum(_size(images, number) for number in numbers)

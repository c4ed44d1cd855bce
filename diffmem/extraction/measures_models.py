# SPDX-License-Identifier: Apache-2.0
"""The models that are measured: alike but for what they are trained on.

Each has a workdir of its own, <root>/measures/models/<name>. Models of one
architecture share their compiled programs.
"""

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

import diffmem.data
from diffmem import arrays, keys, workdir
from diffmem.arrays import Int, UInt8
from diffmem.data import Dataset, Split, streams
from diffmem.denoiser import Denoiser, trained
from diffmem.sample.chain import chain
from diffmem.train import run as fit

LABELLINGS = ("informative", "random", "unique")  # and none


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
  """A trained model, with the images and labels that it has seen."""

  denoiser: Denoiser
  dataset: Dataset
  split: Split

  def images(self, ids: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w c"]:
    """The images of these ids."""
    return self.dataset.take(ids)

  def cond(self, ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"] | None:
    """Their labels, if the model takes any."""
    if self.denoiser.num_classes is None or self.dataset.labels is None:
      return None
    return self.dataset.labels[self.dataset.rows(ids)].astype(np.int32)


class Models:
  """Trains models, or finds them trained, and samples from them."""

  def __init__(
    self,
    folder: epath.Path,
    *,
    data: dict,
    models: dict,
    diffusion: dict,
    train: dict,
    sampler: dict,
    batch: int,
    shape: tuple[int, ...],
  ):
    self._folder, self._data = folder, data
    self._models, self._diffusion, self._train = models, diffusion, train
    self._sampler, self._batch, self._shape = sampler, batch, shape
    self._programs: dict[int | None, fit.Program] = {}
    self._kept: dict[Any, Any] = {}

  def train(
    self,
    name: str,
    *,
    seed: int,
    split: dict,
    source: str | None = None,
    num_classes: int | None = None,
    watch: Callable | None = None,
  ) -> Trained:
    """The model of that name.

    Args:
      name: its folder.
      seed: of its split, weights, batches and noise.
      split: what differs from the config's split.
      source: in place of the config's.
      num_classes: of its labels, None without.
      watch: watch(sample, step) while it trains, with sample(n, seed) -> uint8.
    """
    data = {**self._data, "split": {**self._data["split"], **split}}
    if source is not None:  # its images are cropped and resized already
      data |= {"source": source, "crop": "none", "resize": None}
    models = {**self._models, "num_classes": num_classes}
    sections: dict[str, Any] = dict(
      models=models, diffusion=self._diffusion, train=self._train
    )
    root = self._folder / name
    folder = workdir.of(root, data)
    if num_classes not in self._programs:
      self._programs[num_classes] = fit.program(self._shape, **sections)
    fit.run(
      root,
      seed=seed,
      data=data,
      **sections,
      shared=self._programs[num_classes],
      preview=None if watch is None else self._preview(watch),
      progress=False,
    )
    dataset, drawn = diffmem.data.read(folder / "data")
    return Trained(self._alike(trained.load(folder)), dataset, drawn)

  def sample(
    self,
    denoiser: Denoiser,
    n: int,
    seed: int,
    cond: Int[np.ndarray, " n"] | None = None,
  ) -> UInt8[np.ndarray, "n h w c"]:
    """Generations, functions of (seed, id): the same noise for all models."""
    make = self.once("sample", denoiser, lambda d: jax.jit(self._chain(d)))
    key = keys.stream(keys.root(seed), "measures")
    blocks = []
    for start in range(0, n, self._batch):
      ids = np.arange(start, start + self._batch, dtype=np.int32)
      part = None if cond is None else cond[np.minimum(ids, n - 1)]
      made = make(denoiser.params, ids, key, part)
      blocks.append(np.asarray(arrays.to_uint8(made))[: n - start])
    return np.concatenate(blocks)

  def once(self, name: str, denoiser: Denoiser, make: Callable) -> Any:
    """make(denoiser), kept for all models of its architecture."""
    at = name, denoiser.num_classes
    if at not in self._kept:
      self._kept[at] = make(denoiser)
    return self._kept[at]

  def _alike(self, denoiser: Denoiser) -> Denoiser:
    """With the functions of the first one, whose programs it runs."""
    first = self.once("first", denoiser, lambda d: d)
    return dataclasses.replace(first, params=denoiser.params, eps=None)

  def _chain(self, denoiser: Denoiser) -> Callable:
    return chain(denoiser, guidance=1.0, **self._sampler)

  def _preview(self, watch: Callable) -> Callable:
    def prepare(build, folder):
      del folder

      def look(step, params):
        denoiser = self._alike(build(params))
        watch(lambda n, seed: self.sample(denoiser, n, seed), step)

      return look

    return prepare


def relabelled(
  folder: epath.Path, kind: str, dataset: Dataset, split: Split, seed: int
) -> tuple[str, int]:
  """(source, number of classes): the dataset with labels of that kind.

  informative: its own; random: as many classes, drawn for each image; unique:
  a class for each member (other images are of class 0, and mean nothing).

  Raises:
    ValueError: an unknown kind, or the dataset has no labels.
  """
  if kind not in LABELLINGS:
    raise ValueError(
      f"unknown labels {kind!r}: choose of {', '.join(LABELLINGS)}"
    )
  if dataset.labels is None or dataset.num_classes is None:
    raise ValueError(
      "the data have no labels to compare with: use a labelled source"
    )
  labels, classes = dataset.labels, dataset.num_classes
  if kind == "random":
    words = streams.words(len(dataset), seed, "random labels")
    labels = (words % np.uint64(classes)).astype(np.int64)
  elif kind == "unique":
    labels = np.zeros(len(dataset), np.int64)
    labels[dataset.rows(split.members)] = np.arange(len(split.members))
    classes = len(split.members)
  file = folder / f"{kind}.npz"
  if not file.exists():
    buffer = io.BytesIO()
    np.savez(buffer, images=dataset.images, ids=dataset.ids, labels=labels)
    file.parent.mkdir(parents=True, exist_ok=True)
    workdir.write_bytes(file, buffer.getvalue())
  return f"npz:{file}", classes

# SPDX-License-Identifier: Apache-2.0
"""Named sources, each to uint8 images with stable ids.

A source is written `kind` or `kind:argument`:

    digits             scikit-learn's 1,797 handwritten digits, 8x8, embedded
    scenes[:CxE]       C captioned scenes of such digits, E images of each
    npz:PATH           arrays from one file
    folder:PATH        image files
    tar:PATH           image files in a tar, or in a folder of tars
    tfds:NAME[:SPLIT]  a prepared TensorFlow dataset, read without TensorFlow

A new source is one function `(argument, fit, data_dir) -> Dataset` and one
entry of SOURCES.
"""

import dataclasses
import os

import numpy as np
from sklearn import datasets

from diffmem.data import arrays_file, folders, scenes, tars, tfds_source
from diffmem.data.dataset import Dataset, fingerprint
from diffmem.data.images import Fit


def digits(argument: str, fit: Fit, data_dir: object) -> Dataset:
  """Levels 0..16 become pixels round(level * 255 / 16)."""
  if argument:
    raise ValueError(f"source 'digits:{argument}': digits take no argument")
  levels, labels = datasets.load_digits(return_X_y=True)
  images = np.round(np.asarray(levels) * (255 / 16)).astype(np.uint8)
  images = images.reshape(-1, 8, 8, 1)
  return Dataset(
    images=np.stack([fit(image) for image in images]),
    ids=np.arange(len(images)),
    labels=np.asarray(labels, np.int64),
    info={"class_names": [str(digit) for digit in range(10)]},
  )


SOURCES = {
  "digits": digits,
  "scenes": scenes.scenes,
  "npz": arrays_file.npz,
  "folder": folders.folder,
  "tar": tars.tar,
  "tfds": tfds_source.tfds,
}


def load(
  source: str,
  *,
  crop: str = "none",
  resize: int | None = None,
  filter: str = "lanczos",
  folder: str | os.PathLike | None = None,
) -> Dataset:
  """Loads a whole dataset into memory.

  Args:
    source: see the module.
    crop: "none" or "center", the largest square in the middle.
    resize: side in pixels after cropping, or None.
    filter: of the resize: lanczos, bicubic, bilinear, box or nearest.
    folder: where prepared TensorFlow datasets lie (tfds only).

  Returns:
    The images in the order of their ids. `info` records the arguments, counts
    of what was left out or converted, and hashes: `sha256` of images and ids,
    `annotations_sha256` of labels and captions.

  Raises:
    FileNotFoundError: nothing is at the path.
    ValueError: the source cannot be used; one line that says what to do.
  """
  kind, _, argument = source.partition(":")
  if kind not in SOURCES:
    raise ValueError(
      f"source {source!r}: expected digits, scenes, npz:PATH, folder:PATH, "
      "tar:PATH or tfds:NAME[:SPLIT]"
    )
  if folder is not None and kind != "tfds":
    raise ValueError(f"a data folder is for tfds sources only, not {source!r}")
  dataset = SOURCES[kind](argument, Fit(crop, resize, filter), folder)
  labels = np.zeros(0) if dataset.labels is None else dataset.labels
  captions = np.array(dataset.captions or (), np.str_)
  rows, height, width, channels = dataset.images.shape
  info = {
    "source": source,
    "crop": crop,
    "resize": resize,
    "filter": filter,
    "rows": rows,
    "shape": [height, width, channels],
    **dataset.info,
    "sha256": fingerprint(dataset.images, dataset.ids),
    "annotations_sha256": fingerprint(labels, captions),
  }
  return dataclasses.replace(dataset, info=info)

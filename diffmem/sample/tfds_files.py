# SPDX-License-Identifier: Apache-2.0
"""A prepared TensorFlow dataset as files of images: `tfds:NAME[:SPLIT]`.

Rows come in the order of the dataset; images as the bytes they were stored
as, so that sizes are known and damaged ones left out as in any archive.
"""

import functools
import io
import os
from collections.abc import Iterable, Iterator

from diffmem import workdir
from diffmem.data import tfds_source
from diffmem.sample import grouping
from diffmem.sample.archives import Files, Opener

BLOCK = 64


def open_tfds(argument: str) -> Files:
  """Lists a dataset that lies in $TFDS_DATA_DIR or its usual place.

  Raises:
    FileNotFoundError: it is not prepared; says how to.
    ValueError: it has no such split, or no image.
  """
  rows, features, info, folder = tfds_source.open_rows(
    argument, None, encoded=True
  )
  names, texts = [], []
  for block in _blocks(range(len(rows))):
    for i, row in zip(block, rows.__getitems__(block), strict=True):
      key = row[features["id"]] if features["id"] else f"row {i}"
      is_text = isinstance(key, bytes | str)
      names.append(
        grouping.clean(tfds_source.text(key) if is_text else str(key))
      )
      if features["caption"]:
        texts.append(grouping.clean(tfds_source.text(row[features["caption"]])))
  marks = [
    [entry.name, entry.stat().st_size, entry.stat().st_mtime_ns]
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
  ]

  def feed(wanted: Iterable[int]) -> Iterator[Opener]:
    for block in _blocks(wanted):
      for row in rows.__getitems__(block):
        yield functools.partial(io.BytesIO, row[features["image"]])

  return Files(
    "tfds",
    names,
    [],
    workdir.digest([argument, str(info.version), marks]),
    feed,
    texts if features["caption"] else None,
  )


def _blocks(wanted: Iterable[int]) -> Iterator[list[int]]:
  block: list[int] = []
  for i in wanted:
    block.append(i)
    if len(block) == BLOCK:
      yield block
      block = []
  if block:
    yield block

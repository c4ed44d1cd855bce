# SPDX-License-Identifier: Apache-2.0
"""Captions of a dataset, each distinct one embedded once, into a store.

<root>/captions holds texts.json (the distinct captions, in the order in which
the dataset's rows first have them), their `tokens` float32 [c l e] and `mask`
bool [c l] as stores, and meta.json, which says which encoder made them. A run
that was stopped goes on with the first chunk that is missing; captions or an
encoder of another kind are refused.

The condition of a batch is the tree {"tokens": [b l e], "mask": [b l]}; that
of no caption has a mask that is False everywhere.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmem import processes, store, workdir
from diffmem.arrays import Bool, Float, Int
from diffmem.data import encoders
from diffmem.data.dataset import Dataset
from diffmem.data.encoders import Encoder
from diffmem.progress import Progress

_log = logging.getLogger(__name__)

NAME = "captions"  # of the folder
CHUNK = 2**22  # values of a chunk of tokens, about
MEMORY = 2**30  # bytes of tokens that are held in memory


@dataclasses.dataclass(frozen=True, eq=False)
class Captions:
  """The distinct captions of a dataset and their embeddings.

  Attributes:
    texts: the distinct captions.
    ids: row in `texts` of each dataset row's caption.
    tokens: float32 [c l e], or the store itself where it is large; index it
      by caption ids.
    mask: where there is a token.
    info: encoder, length, features, and the sha256 of encoder and texts.
  """

  texts: tuple[str, ...]
  ids: Int[np.ndarray, " n"]
  tokens: Float[np.ndarray, "c l e"] | store.Store
  mask: Bool[np.ndarray, "c l"]
  info: dict

  def __len__(self) -> int:
    return len(self.texts)

  @property
  def digest(self) -> str:
    """sha256 of the encoder and the texts, for the record of what read them."""
    return workdir.digest(
      [self.info["encoder_sha256"], self.info["texts_sha256"]]
    )

  def cond(
    self, caption_ids: Int[np.ndarray, " b"] | Sequence[int]
  ) -> dict[str, np.ndarray]:
    """{"tokens": [b l e], "mask": [b l]} of these captions."""
    rows = np.asarray(caption_ids, np.int64)
    return {"tokens": np.asarray(self.tokens[rows]), "mask": self.mask[rows]}

  def null(self) -> dict[str, np.ndarray]:
    """{"tokens": [l e], "mask": [l]} of no caption."""
    length, features = self.tokens.shape[1:]
    return {
      "tokens": np.zeros((length, features), np.float32),
      "mask": np.zeros(length, bool),
    }

  def find(self, texts: Sequence[str]) -> Int[np.ndarray, " n"]:
    """The ids of these captions; ValueError for one that is not there."""
    row_of = {text: row for row, text in enumerate(self.texts)}
    unknown = [text for text in texts if text not in row_of]
    if unknown:
      raise ValueError(
        f"{len(unknown)} of {len(texts)} prompts are no captions of the data, "
        f"{unknown[0][:80]!r} the first: only these {len(self)} are embedded"
      )
    return np.array([row_of[text] for text in texts], np.int64)


def distinct(dataset: Dataset) -> tuple[tuple[str, ...], Int[np.ndarray, " n"]]:
  """(the distinct captions, which of them each row has).

  Raises:
    ValueError: there are none, or some are empty.
  """
  source = dataset.info.get("source", "the dataset")
  if dataset.captions is None:
    raise ValueError(
      f"data.captions: {source} has no captions; give a source that has (see "
      "docs/text_to_image.md), or data.captions=None for a model without text"
    )
  blank = [i for i, text in enumerate(dataset.captions) if not text.strip()]
  if blank:
    shown = dataset.names[blank[0]] if dataset.names else dataset.ids[blank[0]]
    raise ValueError(
      f"data.captions: {len(blank)} of {len(dataset)} images of {source} have "
      f"no caption, {shown} the first: caption or remove them"
    )
  row_of: dict[str, int] = {}
  ids = [row_of.setdefault(text, len(row_of)) for text in dataset.captions]
  return tuple(row_of), np.array(ids, np.int64)


def prepare(
  root: str | os.PathLike,
  dataset: Dataset,
  *,
  encoder: str,
  path: str | os.PathLike | None,
  length: int | None,
  features: int | None,
  cut: bool,
  progress: bool = True,
) -> Captions:
  """Embeds the captions into <root>/captions, or what is missing of them.

  Args:
    root: the workdir.
    dataset: with captions.
    encoder: a key of `encoders.ENCODERS`.
    path: of its weights or embeddings, where it has any.
    length: tokens of a caption, padding included.
    features: values of a token; None where the encoder decides.
    cut: whether captions that need more tokens are cut, and counted.
    progress: show the rate and the time left.

  Raises:
    ValueError: no captions, empty or too long ones, or a folder that other
      captions or another encoder made; before anything is embedded.
    FileNotFoundError, ImportError: of the encoder.
  """
  texts, ids = distinct(dataset)
  made = encoders.create(encoder, path=path, length=length, features=features)
  long = _check_lengths(made, texts, cut)
  info = {
    "encoder": made.name,
    "length": made.length,
    "features": made.features,
    "captions": len(texts),
    "cut": long,
    "encoder_sha256": made.digest,
    "texts_sha256": workdir.digest(list(texts)),
  }
  of_encoder = {k: info[k] for k in ("encoder", "length", "features")}
  config = {"data": {"captions": of_encoder}}
  inputs = {k: info[k] for k in ("encoder_sha256", "texts_sha256")}
  folder = workdir.path(root) / NAME
  if not _finished(folder, config, inputs):
    needs = 4 * len(texts) * made.length * made.features
    with workdir.stage(
      root, NAME, config=config, inputs=inputs, needs=needs
    ) as stage:
      text = json.dumps(texts, ensure_ascii=False)
      workdir.write_bytes(folder / "texts.json", text.encode())
      if processes.leads():  # the others wait for it at the stage's end
        _embed(folder, made, texts, progress)
      stage.record("captions", info)
      _log.info("captions: %d embedded (%s)", len(texts), folder)
  return Captions(texts, ids, *_open(folder), info)


def read(root: str | os.PathLike, dataset: Dataset) -> Captions:
  """What `prepare` made, for the same dataset; no encoder is needed.

  Raises:
    FileNotFoundError: no captions were embedded there.
    ValueError: the dataset has other captions.
  """
  info = workdir.require(root, NAME)["captions"]
  texts, ids = distinct(dataset)
  if workdir.digest(list(texts)) != info["texts_sha256"]:
    raise ValueError(
      f"{workdir.path(root) / NAME} holds embeddings of {info['captions']} "
      f"captions, which are not the {len(texts)} of "
      f"{dataset.info.get('source', 'the dataset')}: use another --workdir, or "
      "delete that folder and what came after it"
    )
  return Captions(texts, ids, *_open(workdir.path(root) / NAME), info)


def _finished(folder: os.PathLike, config: dict, inputs: dict) -> bool:
  """Whether they are there: the jobs of one run that find them need no lock."""
  file = workdir.path(folder) / "meta.json"
  meta = workdir.read_json(file) if file.exists() else {}
  return meta.get("status") == "finished" and (
    (meta["config"], meta["inputs"]) == (config, inputs)
  )


def conditions(
  made: Captions,
  texts: Sequence[str],
  *,
  encoder: str,
  path: str | os.PathLike | None,
  length: int | None,
  features: int | None,
  cut: bool,
) -> dict[str, np.ndarray]:
  """{"tokens": [n l e], "mask": [n l]} of any texts, captions or not.

  Captions are read; the encoder is loaded only where there are other texts.

  Args:
    made: the captions of the data.
    texts: any; encoder, ..., cut: as of `prepare`.

  Raises:
    ValueError: the encoder is not the one that made the captions, or a text
      is empty or too long.
    FileNotFoundError, ImportError: of the encoder.
  """
  row_of = {text: row for row, text in enumerate(made.texts)}
  own = [i for i, text in enumerate(texts) if text in row_of]
  other = [i for i, text in enumerate(texts) if text not in row_of]
  found = made.cond([row_of[texts[i]] for i in own])
  if not other:
    return found
  again = encoders.create(encoder, path=path, length=length, features=features)
  if again.digest != made.info["encoder_sha256"]:
    raise ValueError(
      f"data.captions: encoder {encoder!r} of {path} is not the one that "
      f"embedded the captions (sha256 {again.digest[:12]}..., not "
      f"{made.info['encoder_sha256'][:12]}...): give that one back, or prompts "
      "that are captions of the data"
    )
  rest = [texts[i] for i in other]
  _check_lengths(again, rest, cut)
  _log.info("captions: %d prompts are none of the data's, embedded", len(rest))
  order = np.argsort(own + other, kind="stable")
  parts = zip(found.values(), again.encode(rest), strict=True)
  return {
    key: np.concatenate(pair)[order]
    for key, pair in zip(found, parts, strict=True)
  }


def _check_lengths(made: Encoder, texts: Sequence[str], cut: bool) -> int:
  """How many texts are longer than the encoder's length."""
  counts = made.counts(texts)
  empty = np.flatnonzero(counts < 1)
  if len(empty):
    raise ValueError(
      f"data.captions: encoder {made.name!r} finds no token in "
      f"{texts[empty[0]][:80]!r}, nor in {len(empty) - 1} others"
    )
  long = np.flatnonzero(counts > made.length)
  if len(long) and not cut:
    raise ValueError(
      f"data.captions: {len(long)} of {len(texts)} captions need more than "
      f"length={made.length} tokens, the longest {counts.max()} "
      f"({texts[int(counts.argmax())][:80]!r}): set length={counts.max()}, or "
      "cut=True to cut them"
    )
  if len(long):
    _log.info(
      "captions: %d of %d are cut to %d tokens",
      len(long),
      len(texts),
      made.length,
    )
  return len(long)


def _embed(
  folder: os.PathLike, made: Encoder, texts: Sequence[str], progress: bool
) -> None:
  """Writes the chunks that are missing; a mask before its tokens."""
  folder = workdir.path(folder)
  size = made.length * made.features
  chunk = min(len(texts), max(1, CHUNK // size))
  shape = (len(texts), made.length)
  tokens = store.create(
    folder / "tokens",
    shape=(*shape, made.features),
    dtype=np.float32,
    chunk=chunk,
  )
  mask = store.create(folder / "mask", shape=shape, dtype=bool, chunk=chunk)
  there = set(tokens.written()) & set(mask.written())
  missing = sorted(set(range(tokens.chunks)) - there)
  done = sum(tokens.rows(i).stop - tokens.rows(i).start for i in there)
  with Progress(
    len(texts), what=NAME, unit="captions", done=done, enabled=progress
  ) as bar:
    for number in missing:
      rows = tokens.rows(number)
      values, where = made.encode(texts[rows])
      if not np.isfinite(values).all():
        raise FloatingPointError(
          f"encoder {made.name!r} gives values that are not finite among "
          f"captions {rows.start}..{rows.stop - 1}; check its weights"
        )
      mask.write(number, where)
      tokens.write(number, values)
      bar.update(len(values))


def _open(folder: os.PathLike) -> tuple[Any, np.ndarray]:
  """(tokens, mask) of a folder; large tokens stay on disk."""
  folder = workdir.path(folder)
  tokens = store.open(folder / "tokens")
  mask = store.open(folder / "mask")[:]
  size = int(np.prod(tokens.shape)) * tokens.dtype.itemsize
  return (tokens[:] if size <= MEMORY else tokens), mask

# SPDX-License-Identifier: Apache-2.0
"""Frozen encoders of captions: a text to l tokens of e features, and a mask.

  hashed  no network and no download: token i is w(word_i) + p_i, where w is a
          unit Gaussian vector that a hash of the word fixes, and p_i the
          sinusoids of place i (Vaswani et al. 2017, arXiv:1706.03762, section
          3.5). It knows which words stand where and nothing of what they mean.
  t5      the encoder of T5 (Raffel et al. 2020, arXiv:1910.10683), as in
          Imagen (Saharia et al. 2022, arXiv:2205.11487); extra: torch
  file    embeddings that somebody else computed

A new encoder is a function `(path, length, features) -> Encoder` and an entry
of ENCODERS.
"""

import dataclasses
import functools
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from diffmem import workdir
from diffmem.arrays import Bool, Float, Int
from diffmem.data import t5
from diffmem.data.streams import words

Encoded = tuple[Float[np.ndarray, "c l e"], Bool[np.ndarray, "c l"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """A frozen map from texts to tokens.

  Attributes:
    name: key of ENCODERS.
    length: tokens l of a text, padding included.
    features: values e of a token.
    counts: texts -> how many tokens each would need, uncut.
    encode: texts -> (tokens float32 [c l e], mask bool [c l], True where there
      is a token); texts are cut to l tokens, padding is zero.
    info: plain values that decide the tokens: options, sha256 of weights.
  """

  name: str
  length: int
  features: int
  counts: Callable[[Sequence[str]], Int[np.ndarray, " c"]]
  encode: Callable[[Sequence[str]], Encoded]
  info: dict

  @property
  def digest(self) -> str:
    """sha256 of what decides the tokens of any text."""
    made = {"name": self.name, "length": self.length, "features": self.features}
    return workdir.digest(made | self.info)


def create(
  name: str,
  *,
  path: str | os.PathLike | None,
  length: int | None,
  features: int | None,
) -> Encoder:
  """An encoder by name; see ENCODERS for what each needs.

  Raises:
    ValueError: another name, or options that do not fit.
    FileNotFoundError: nothing is at the path.
    ImportError: the extra is not installed.
  """
  if name not in ENCODERS:
    raise ValueError(
      f"data.captions.encoder={name!r}: expected one of {', '.join(ENCODERS)}"
    )
  for key, value in (("length", length), ("features", features)):
    if value is not None and value < 1:
      raise ValueError(f"data.captions.{key}={value}: expected 1 or more")
  return ENCODERS[name](path, length, features)


def hashed(
  path: str | os.PathLike | None, length: int | None, features: int | None
) -> Encoder:
  """Words and signs by their hash; length and features are free."""
  if path is not None or length is None or features is None:
    raise ValueError(
      f"data.captions: the hashed encoder reads no path ({path}) and needs a "
      f"length ({length}) and features ({features})"
    )
  vector = functools.lru_cache(maxsize=2**16)(
    functools.partial(_word_vector, features=features)
  )
  places = _sinusoids(length, features)

  def counts(texts: Sequence[str]) -> Int[np.ndarray, " c"]:
    return np.array([len(_split(text)) for text in texts], np.int64)

  def encode(texts: Sequence[str]) -> Encoded:
    tokens = np.zeros((len(texts), length, features), np.float32)
    mask = np.zeros((len(texts), length), bool)
    for row, text in enumerate(texts):
      for place, word in enumerate(_split(text)[:length]):
        tokens[row, place] = vector(word) + places[place]
        mask[row, place] = True
    return tokens, mask

  return Encoder("hashed", length, features, counts, encode, {"version": 1})


def of_t5(
  path: str | os.PathLike | None, length: int | None, features: int | None
) -> Encoder:
  """T5 from a folder or the hub; features follow from its weights."""
  if path is None or length is None:
    raise ValueError(
      f"data.captions: T5 needs a path ({path}: a folder that save_pretrained "
      f"wrote, or a hub id) and a length ({length}: tokens of a caption)"
    )
  model = t5.load(path)
  _check_size("features", features, model.features, f"T5 of {path}")
  return Encoder(
    "t5",
    length,
    model.features,
    model.counts,
    functools.partial(model.encode, length=length),
    {"weights": model.digest},
  )


def from_file(
  path: str | os.PathLike | None, length: int | None, features: int | None
) -> Encoder:
  """An npz with texts unicode [c], tokens float [c l e], mask bool [c l]."""
  if path is None:
    raise ValueError("data.captions.path is missing: the npz with embeddings")
  texts, tokens, mask = _read(path)
  _check_size("length", length, tokens.shape[1], os.fspath(path))
  _check_size("features", features, tokens.shape[2], os.fspath(path))
  row_of = {text: row for row, text in enumerate(texts)}

  def rows(wanted: Sequence[str]) -> list[int]:
    lacking = [text for text in wanted if text not in row_of]
    if lacking:
      raise ValueError(
        f"{path} embeds {len(texts)} texts, but {len(lacking)} of "
        f"{len(wanted)} captions are none of them, {lacking[0][:80]!r} the "
        "first: embed every caption of the data"
      )
    return [row_of[text] for text in wanted]

  def counts(wanted: Sequence[str]) -> Int[np.ndarray, " c"]:
    return mask[rows(wanted)].sum(axis=1)

  def encode(wanted: Sequence[str]) -> Encoded:
    found = rows(wanted)
    return tokens[found], mask[found]

  content = hashlib.sha256(tokens.tobytes() + mask.tobytes())
  content.update("\0".join(texts).encode())
  info = {"content": content.hexdigest()}
  _, there, values = tokens.shape
  return Encoder("file", there, values, counts, encode, info)


def _split(text: str) -> list[str]:
  """Words, and signs one by one."""
  return re.findall(r"\w+|[^\w\s]", text)


def _word_vector(word: str, features: int) -> Float[np.ndarray, " e"]:
  """The Gaussian vector of a word, by the inverse of its distribution."""
  bits = words(features, 0, f"word {word}")
  uniform = ((bits >> np.uint64(11)) + 0.5) / 2.0**53
  return special.ndtri(uniform).astype(np.float32)


def _sinusoids(length: int, features: int) -> Float[np.ndarray, "l e"]:
  """Sines and cosines of place / 10000^(i / half), i in 0..half-1."""
  half = -(-features // 2)
  angles = np.arange(length)[:, None] / 10_000 ** (np.arange(half) / half)
  both = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  return both[:, :features].astype(np.float32)


def _check_size(key: str, asked: int | None, there: int, what: str) -> None:
  if asked not in (None, there):
    raise ValueError(
      f"data.captions.{key}={asked}, but {what} has {there}: set {there}, or "
      "None"
    )


def _read(path: str | os.PathLike) -> tuple[list[str], np.ndarray, np.ndarray]:
  """(texts, tokens float32, mask) of an npz, checked."""
  file = workdir.path(path)
  if not file.is_file():
    raise FileNotFoundError(f"data.captions.path={path}: no such file")
  try:
    with file.open("rb") as f, np.load(f, allow_pickle=False) as arrays:
      found = {name: arrays[name] for name in arrays.files}
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
    raise ValueError(
      f"{path} is no npz of plain arrays ({e}): write it with numpy.savez"
    ) from e
  missing = {"texts", "tokens", "mask"} - set(found)
  if missing:
    raise ValueError(
      f"{path} has no {' and no '.join(sorted(missing))} (it has "
      f"{', '.join(sorted(found)) or 'nothing'}): expected texts unicode [c], "
      "tokens float [c l e], mask bool [c l]"
    )
  texts, tokens, mask = (found[name] for name in ("texts", "tokens", "mask"))
  if (
    texts.dtype.kind != "U"
    or tokens.dtype.kind != "f"
    or mask.dtype != bool
    or tokens.ndim != 3
    or 0 in tokens.shape
    or texts.shape != tokens.shape[:1]
    or mask.shape != tokens.shape[:2]
  ):
    raise ValueError(
      f"{path} holds texts {texts.dtype}{list(texts.shape)}, tokens "
      f"{tokens.dtype}{list(tokens.shape)}, mask {mask.dtype}"
      f"{list(mask.shape)}: expected unicode [c], float [c l e], bool [c l]"
    )
  listed = texts.tolist()
  if len(set(listed)) < len(listed):
    raise ValueError(f"{path}: a text stands in it twice, keep one of each")
  return listed, np.where(mask[..., None], tokens, 0).astype(np.float32), mask


ENCODERS: dict[str, Callable[..., Encoder]] = {
  "hashed": hashed,
  "t5": of_t5,
  "file": from_file,
}

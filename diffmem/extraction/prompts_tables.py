# SPDX-License-Identifier: Apache-2.0
"""The tables and pictures of the prompts stage; `prompts_run` says which."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from diffmem import store, workdir
from diffmem.arrays import Int, UInt8
from diffmem.data import Dataset, Split
from diffmem.extraction.cliques import Clique
from diffmem.extraction.prompts import Tested
from diffmem.extraction.prompts_bank import read
from diffmem.extraction.prompts_training import Matched
from diffmem.sample.bank import Bank

COLUMNS = (
  "rank",
  "prompt_id",
  "prompt",
  "generation_id",
  "clique",
  "mean_distance",
  "images",
  "exact",
  "training_id",
  "training_distance",
  "duplicates",
  "correct",
)
ALL_COLUMNS = (
  "prompt_id",
  "prompt",
  "images",
  "flat",
  "over_limit",
  "tightest",
  "proven",
  "flagged",
  "undecided",
)
MEMBERS = 9  # of a clique that are shown
FULL, SMALL = 256, 128  # pixels


def write(
  folder: epath.Path,
  bank: Bank,
  images: store.Store,
  data: tuple[Dataset, Split] | None,
  tested: Sequence[Tested],
  ranked: Sequence[Tested],
  matched: Matched | None,
  gallery: int,
) -> None:
  """Writes ranking.csv, prompts.csv and gallery.npz."""
  texts = bank.prompts or ()
  pairs = [(t, t.answer.clique) for t in ranked]
  found = [(t, clique) for t, clique in pairs if clique is not None]
  rows = (
    [i + 1, *_row(t, c, texts), *_training(matched, i)]
    for i, (t, c) in enumerate(found)
  )
  _csv(folder / "ranking.csv", COLUMNS, rows)
  _csv(folder / "prompts.csv", ALL_COLUMNS, (_all(t, texts) for t in tested))
  shown = found[:gallery]
  pictures = _pictures(images, shown)
  if data is not None and matched is not None:
    ids = matched.ids[: len(shown)]
    pictures["training_ids"] = ids
    pictures["training"] = reduced(data[0].take(ids), FULL)
  packed = io.BytesIO()
  np.savez_compressed(packed, **pictures)
  workdir.write_bytes(folder / "gallery.npz", packed.getvalue())


def _row(tested: Tested, clique: Clique, texts: Sequence[str]) -> list:
  measured = tested.measured
  return [
    measured.prompt,
    texts[measured.prompt],
    clique.medoid,
    clique.size,
    f"{clique.mean:.8f}",
    len(measured.rows),
    int(tested.answer.exact),
  ]


def _training(matched: Matched | None, i: int) -> list:
  if matched is None:
    return [""] * 4
  return [
    matched.ids[i],
    f"{matched.distances[i]:.8f}",
    matched.duplicates[i],
    int(matched.correct[i]),
  ]


def _all(tested: Tested, texts: Sequence[str]) -> list:
  measured = tested.measured
  known = math.isfinite(measured.tightest)
  return [
    measured.prompt,
    texts[measured.prompt],
    len(measured.rows),
    measured.flat,
    measured.over,
    f"{measured.tightest:.8f}" if known else "",
    int(measured.proven),
    int(tested.flagged),
    int(tested.undecided),
  ]


def _csv(
  file: epath.Path, columns: Sequence[str], rows: Iterable[list]
) -> None:
  out = io.StringIO(newline="")
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(columns)
  writer.writerows(rows)
  # A lone surrogate of a hostile prompt has no UTF-8.
  text = out.getvalue().encode("utf-8", "backslashreplace")
  workdir.write_bytes(file, text)


def _pictures(
  images: store.Store, shown: Sequence[tuple[Tested, Clique]]
) -> dict[str, Any]:
  cliques = [clique for _, clique in shown]
  medoids = np.array([c.medoid for c in cliques], np.int64)
  ids = np.full((len(cliques), MEMBERS), -1, np.int64)
  for row, clique in zip(ids, cliques, strict=True):
    others = clique.ids[clique.ids != clique.medoid][:MEMBERS]
    row[: len(others)] = others
  small = [_members(images, row) for row in ids]
  shape = reduced(np.zeros((1, *images.shape[1:]), np.uint8), SMALL).shape[1:]
  members = np.zeros((len(cliques), MEMBERS, *shape), np.uint8)
  for out, others in zip(members, small, strict=True):
    out[: len(others)] = others
  return {
    "prompt_ids": np.array([t.measured.prompt for t, _ in shown], np.int64),
    "generation_ids": medoids,
    "medoids": reduced(read(images, medoids), FULL),
    "member_ids": ids,
    "members": members,
  }


def _members(
  images: store.Store, ids: Int[np.ndarray, " k"]
) -> UInt8[np.ndarray, "m h w c"]:
  return reduced(read(images, ids[ids >= 0]), SMALL)


def reduced(
  images: UInt8[np.ndarray, "n h w c"], side: int
) -> UInt8[np.ndarray, "n i j c"]:
  """Averaged down by a whole factor so that no side is above `side`."""
  n, height, width, c = images.shape
  by = math.ceil(max(height, width) / side)
  if by == 1:
    return images
  high, wide = height // by, width // by
  cut = images[:, : high * by, : wide * by]
  cut = cut.reshape(n, high, by, wide, by, c)
  return np.round(cut.mean(axis=(2, 4))).astype(np.uint8)

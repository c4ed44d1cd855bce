# SPDX-License-Identifier: Apache-2.0
"""Which captions to give a model as prompts (Carlini et al. 2023, 4.2 to 4.4).

For each distinct training image x_i that stands c_i times in training,

  count_i   = sum of c_j over all j with d(x_i, x_j) <= delta, i itself too,
  outlier_i = mean of d(x_i, x_j) over the `neighbours` nearest j != i,

with d the RMS of pixels or, with features, their own distance. A caption takes
the largest of each over its images. Prompts are then, each caption once:

  duplicated  the captions of the largest counts;
  outliers    of the rest, those with an image far from all others: such images
              may be memorized though nobody repeated them;
  ordinary    of the rest, some at random: what the others are compared with.

All kinds get as many generations a prompt, so that they compare at equal cost.
`run` keeps what it computes in <root>/choose: pairs/ (or vectors/), outlier/,
and prompts_chosen.csv with COLUMNS, one line for each prompt in the order of
its id; it is itself a file of prompts that the sample stage reads. ordinary.txt
has the ids of the ordinary ones, on which the prompts stage can calibrate.
"""

import csv
import dataclasses
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

import diffmem.data
from diffmem import distances, features, store, workdir
from diffmem.arrays import Float, Int
from diffmem.data import Dataset, Split
from diffmem.data import captions as texts
from diffmem.data.streams import permutation
from diffmem.features import run as embedding
from diffmem.progress import Progress

_log = logging.getLogger(__name__)

KINDS = ("duplicated", "outliers", "ordinary")
COLUMNS = (
  "caption",
  "kind",
  "count",
  "outlier",
  "images",
  "image_ids",
)
FILE, ORDINARY = "prompts_chosen.csv", "ordinary.txt"
BLOCK = 1024  # images whose neighbours are sought at once, a chunk on disk


@dataclasses.dataclass(frozen=True)
class Chosen:
  """A prompt: a caption, and why it was chosen.

  Attributes:
    caption: the text.
    kind: one of KINDS.
    count: training images near one of its images, copies included.
    outlier: mean distance of its most outlying image to its nearest.
    image_ids: of the distinct training images with this caption.
  """

  caption: str
  kind: str
  count: int
  outlier: float
  image_ids: tuple[int, ...]


def run(
  root: str | os.PathLike,
  *,
  seed: int,
  choose: Mapping[str, Any],
  progress: bool = True,
) -> list[Chosen]:
  """Chooses among the captions of <root>/data; writes <root>/choose.

  Args:
    root: the workdir; its data must have been prepared.
    seed: of the order among equals, and of the ordinary prompts.
    choose: duplicated, outliers, ordinary (how many of each), delta,
      neighbours, features (arguments of `features.create` with "batch", or
      None for pixels), and table, of another run, whose prompts and kinds are
      taken in place of any choice, their counts measured here (or None).
    progress: show the rate and the time left.

  Raises:
    FileNotFoundError: there are no data.
    ValueError: no captions, or fewer than are asked for.
  """
  dataset, split = diffmem.data.read(workdir.path(root) / "data")
  _check(choose)
  captions, ids = texts.distinct(dataset)
  own = ids[dataset.rows(split.members)]
  sizes = {kind: choose[kind] for kind in KINDS}
  if sum(sizes.values()) > len(np.unique(own)):
    raise ValueError(
      f"choose asks for {sum(sizes.values())} prompts, but training images "
      f"have {len(np.unique(own))} captions: ask for fewer"
    )
  table = None if choose["table"] is None else read(choose["table"])
  name_of = {captions[i]: i for i in np.unique(own).tolist()}
  unknown = [row.caption for row in table or () if row.caption not in name_of]
  if unknown:
    raise ValueError(
      f"choose.table={choose['table']}: {len(unknown)} of its prompts are no "
      f"captions of training images, {unknown[0][:80]!r} the first"
    )
  inputs = {
    "dataset": dataset.info["sha256"],
    "captions": dataset.info["annotations_sha256"],
    "split": split.digest,
  }
  config = {"seed": seed, "choose": dict(choose)}
  with workdir.stage(root, "choose", config=config, inputs=inputs) as stage:
    if not stage.finished:
      counts, outlier = _measure(stage.folder, dataset, split, choose, progress)
      chosen = select(own, counts, outlier, sizes=sizes, seed=seed)
      if table is not None:
        chosen = [(name_of[row.caption], row.kind) for row in table]
      rows = [
        _describe(caption, kind, captions, own, counts, outlier, split.members)
        for caption, kind in chosen
      ]
      write(stage.folder / FILE, rows)
      ids = [str(i) for i, row in enumerate(rows) if row.kind == "ordinary"]
      content = "".join(f"{i}\n" for i in ids)
      workdir.write_bytes(stage.folder / ORDINARY, content.encode())
      stage.record("prompts", sizes)
      stage.record("neighbours", _neighbours(choose, len(split.members)))
  return read(workdir.path(root) / "choose" / FILE)


def select(
  captions: Int[np.ndarray, " n"],
  counts: Int[np.ndarray, " n"],
  outlier: Float[np.ndarray, " n"],
  *,
  sizes: Mapping[str, int],
  seed: int,
) -> list[tuple[int, str]]:
  """(caption, kind) of each prompt, kind by kind, best first.

  Args:
    captions: of each distinct training image, any integers.
    counts, outlier: of each image; see the module.
    sizes: how many prompts of each of KINDS.
    seed: of the order among equals, and of the ordinary ones.
  """
  names, place = np.unique(captions, return_inverse=True)
  most = np.zeros(len(names), np.int64)
  furthest = np.full(len(names), -np.inf)
  np.maximum.at(most, place, counts)
  np.maximum.at(furthest, place, outlier)
  order = permutation(len(names), seed, "prompts")
  keys = {
    "duplicated": -most[order],
    "outliers": -furthest[order],
    "ordinary": np.zeros(len(names)),
  }
  chosen: dict[int, str] = {}
  for kind in KINDS:
    ranked = order[np.argsort(keys[kind], kind="stable")].tolist()
    free = [i for i in ranked if i not in chosen]
    chosen |= dict.fromkeys(free[: sizes[kind]], kind)
  return [(int(names[i]), kind) for i, kind in chosen.items()]


def counted(
  copies: Int[np.ndarray, " n"], found: distances.Edges
) -> Int[np.ndarray, " n"]:
  """count_i of each image, from the pairs i < j within delta."""
  both = np.concatenate([found.i, found.j]), np.concatenate([found.j, found.i])
  near = np.bincount(both[0], copies[both[1]], len(copies))
  return copies + near.astype(np.int64)


def write(file: str | os.PathLike, rows: Sequence[Chosen]) -> None:
  """Writes the table, whole or not at all."""
  out = io.StringIO(newline="")
  table = csv.writer(out, lineterminator="\n")
  table.writerow(COLUMNS)
  for row in rows:
    ids = " ".join(map(str, row.image_ids))
    table.writerow(
      [
        row.caption,
        row.kind,
        row.count,
        f"{row.outlier:.8f}",
        len(row.image_ids),
        ids,
      ]
    )
  workdir.write_bytes(file, out.getvalue().encode())


def read(file: str | os.PathLike) -> list[Chosen]:
  """Reads what `write` wrote; ValueError for a table of another form."""
  text = workdir.path(file).read_bytes().decode()
  rows = csv.DictReader(io.StringIO(text, newline=""))
  if tuple(rows.fieldnames or ()) != COLUMNS:
    raise ValueError(
      f"{file} has the columns {', '.join(rows.fieldnames or ())}, expected "
      f"{', '.join(COLUMNS)}: delete its folder and choose again"
    )
  return [
    Chosen(
      caption=row["caption"],
      kind=row["kind"],
      count=int(row["count"]),
      outlier=float(row["outlier"]),
      image_ids=tuple(map(int, row["image_ids"].split())),
    )
    for row in rows
  ]


def _check(choose: Mapping[str, Any]) -> None:
  for kind in KINDS:
    if choose[kind] < 0:
      raise ValueError(f"choose.{kind} = {choose[kind]}, expected 0 or more")
  if not any(choose[kind] for kind in KINDS):
    raise ValueError("choose asks for no prompt: set duplicated, say")
  if choose["neighbours"] < 1:
    raise ValueError(
      f"choose.neighbours = {choose['neighbours']}, expected at least 1"
    )


def _neighbours(choose: Mapping[str, Any], n: int) -> int:
  """Of the outlier score: of few images all others."""
  return max(1, min(choose["neighbours"], n - 1))


def _measure(
  folder: epath.Path,
  dataset: Dataset,
  split: Split,
  choose: Mapping[str, Any],
  progress: bool,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
  """(count, outlier) of each distinct training image."""
  images, copies = dataset.take(split.members), split.copies
  k = min(_neighbours(choose, len(images)) + 1, len(images))
  if choose["features"] is None:
    distances.write_pairs(
      folder / "pairs", images, threshold=choose["delta"], progress=progress
    )
    counts = counted(copies, distances.read_pairs(folder / "pairs"))

    def nearest(rows: slice) -> Float[np.ndarray, "b k"]:
      return distances.nearest(images[rows], images, k).distances

  else:
    options = dict(choose["features"])
    batch = options.pop("batch")
    made = features.create(**options)
    vectors = embedding.embed_set(
      folder / "vectors",
      images,
      made,
      batch=batch,
      of=split.digest,
      progress=progress,
    )[:]
    metric = made.metric
    found = distances.vectors_within(
      vectors, vectors, choose["delta"], metric=metric
    )
    other = found.queries != found.references
    near = np.bincount(
      found.queries[other], copies[found.references[other]], len(copies)
    )
    counts = copies + near.astype(np.int64)

    def nearest(rows: slice) -> Float[np.ndarray, "b k"]:
      return distances.nearest_vectors(
        vectors[rows], vectors, k, metric=metric
      ).distances

  return counts, _outlier(folder, len(images), k, nearest, progress)


def _outlier(
  folder: epath.Path,
  n: int,
  k: int,
  nearest: Callable[[slice], Float[np.ndarray, "b k"]],
  progress: bool,
) -> Float[np.ndarray, " n"]:
  """The mean distance to the nearest others, block by block, into a store.

  An image is among its own k nearest, at distance 0.
  """
  out = store.create(
    folder / "outlier", shape=(n,), dtype=np.float64, chunk=min(n, BLOCK)
  )
  missing = sorted(set(range(out.chunks)) - set(out.written()))
  done = sum(out.rows(i).stop - out.rows(i).start for i in out.written())
  with Progress(
    n, what="outliers", unit="images", done=done, enabled=progress
  ) as bar:
    for number in missing:
      near = nearest(out.rows(number))
      out.write(number, near.sum(axis=1) / max(k - 1, 1))
      bar.update(len(near))
  return out[:]


def _describe(
  caption: int,
  kind: str,
  texts: Sequence[str],
  own: Int[np.ndarray, " n"],
  counts: Int[np.ndarray, " n"],
  outlier: Float[np.ndarray, " n"],
  members: Int[np.ndarray, " n"],
) -> Chosen:
  """The row of a prompt."""
  rows = np.flatnonzero(own == caption)
  return Chosen(
    caption=texts[caption],
    kind=kind,
    count=int(counts[rows].max()),
    outlier=float(outlier[rows].max()),
    image_ids=tuple(members[rows].tolist()),
  )

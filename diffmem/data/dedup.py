# SPDX-License-Identifier: Apache-2.0
"""Deduplication of the training set: of each group of near-duplicates, one.

Members are joined by pairs that somebody found near each other (an edge file,
which `diffmem.train.deduplication` writes from a search). A group is a
connected component of that graph, and a planted image is one with its copies.
The lowest id of each group stays in training, once; the rest leaves the split
altogether: near-copies of members are no control. Held-out and calibration
images stay, and so do all ids.

The edge file is an npz of i, j (ids, i < j), distance (of the search), and
`split`, the sha256 of the split that was searched.
"""

import dataclasses
import io
import os
import zipfile

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from diffmem import workdir
from diffmem.data.splits import Split

FILE = "edges.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
  """Ids that are near-duplicates of each other, i < j, by a search.

  split: digest of the split whose members were searched.
  """

  i: Int[np.ndarray, " e"]
  j: Int[np.ndarray, " e"]
  distance: Float[np.ndarray, " e"]
  split: str


def save(path: str | os.PathLike, pairs: Pairs) -> None:
  """Writes an edge file, whole or not at all."""
  buffer = io.BytesIO()
  np.savez(buffer, **dataclasses.asdict(pairs))
  workdir.write_bytes(path, buffer.getvalue())


def read(path: str | os.PathLike) -> Pairs:
  """Reads an edge file.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is damaged, or holds something else.
  """
  path = workdir.path(path)
  if not path.exists():
    raise FileNotFoundError(
      f"{path} does not exist, which data.dedup needs: run diffmem-train, it "
      "searches the training images first"
    )
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
      found = [file[name] for name in ("i", "j", "distance")]
      return Pairs(*found, split=str(file["split"]))
  except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as e:
    raise ValueError(
      f"{path} is no edge file ({e}): delete {path.parent} and run "
      "diffmem-train again"
    ) from e


def kept(members: Int[np.ndarray, " b"], pairs: Pairs) -> Int[np.ndarray, " b"]:
  """For each member, the id that stays in training in its place.

  Raises ValueError where a pair is of other images.
  """
  n = len(members)
  ends = []
  for ids in (pairs.i, pairs.j):
    rows = np.minimum(np.searchsorted(members, ids), n - 1)
    if not np.array_equal(members[rows], ids):
      other = ids[members[rows] != ids][0]
      raise ValueError(f"the edge file pairs id {other}, which is no member")
    ends.append(rows)
  graph = scipy.sparse.coo_array((np.ones(len(ends[0]), bool), ends), (n, n))
  _, group = scipy.sparse.csgraph.connected_components(graph, directed=False)
  _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
  return members[first[inverse]]


def apply(split: Split, pairs: Pairs) -> Split:
  """The split whose members are one of each group, each standing there once.

  `info["dedup"]` tells how many rows and ids there were and are, and
  "stood": how often the images of a group had stood in training, where more
  than once, to the id that is kept.

  Raises:
    ValueError: the pairs are of another split, or the split has shadow models
      or canaries, which would not be deduplicated alike.
  """
  if split.shadows is not None:
    raise ValueError(
      f"data.dedup with data.split.shadows={len(split.shadows)}: shadow models "
      "train on held-out images too, which are not deduplicated; leave one out"
    )
  if pairs.split != split.digest:
    raise ValueError(
      "the edge file of data.dedup is of another split: delete the folder "
      "dedup of the workdir and run diffmem-train again"
    )
  stays = kept(split.members, pairs)
  members, inverse = np.unique(stays, return_inverse=True)
  stood = np.bincount(inverse, weights=split.copies).astype(np.int64)
  made = dataclasses.replace(
    split,
    members=members,
    copies=np.ones(len(members), np.int64),
    pool=np.union1d(members, split.held_out),
  )
  about = {
    "rows": [int(split.copies.sum()), len(members)],
    "ids": [len(split.members), len(members)],
    "stood": {
      str(k): members[stood == k].tolist() for k in np.unique(stood) if k > 1
    },
  }
  info = {**split.info, "members": len(members), "planted": []}
  info |= {"dedup": about, "sha256": made.digest}
  return dataclasses.replace(made, info=info)

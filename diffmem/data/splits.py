# SPDX-License-Identifier: Apache-2.0
"""Who is in training, how often, and in which shadow models.

Three disjoint sets of ids: members train the model; held-out images are its
control; the calibration part sets thresholds and is not reported on. Some
members are planted: they stand in training several times. Everything follows
from the seed by named streams, so that one choice never moves another.
"""

import dataclasses
import io
import json
import os
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int

from diffmem import workdir
from diffmem.data import secmi
from diffmem.data.dataset import Dataset, duplicate_of, fingerprint
from diffmem.data.streams import coins, permutation

SETS = ("members", "held_out", "calibration")
ARRAYS = (*SETS, "copies", "pool", "shadows")
Parts = tuple[np.ndarray, np.ndarray, np.ndarray, dict]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Ids, ascending, of the disjoint parts of a dataset.

  Attributes:
    members: ids in training.
    held_out: ids outside, the control of every claim.
    calibration: ids outside, on which thresholds are set.
    copies: how often each member stands in training, 1 or more.
    pool: members and held_out together.
    shadows: whether shadow s trains on pool id p; rows 2j and 2j+1 are
      complements. None without shadows.
    info: how the split was made, and its digest as "sha256".
  """

  members: Int[np.ndarray, " b"]
  held_out: Int[np.ndarray, " n"]
  calibration: Int[np.ndarray, " m"]
  copies: Int[np.ndarray, " b"]
  pool: Int[np.ndarray, " pool"]
  shadows: Bool[np.ndarray, "s pool"] | None = None
  info: dict = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    parts = np.concatenate([self.members, self.held_out, self.calibration])
    if len(np.unique(parts)) != len(parts):
      raise ValueError("members, held_out and calibration overlap")
    for part in (self.members, self.held_out, self.calibration, self.pool):
      if np.any(np.diff(part) <= 0):
        raise ValueError("ids of a split must ascend")
    if len(self.copies) != len(self.members) or np.any(self.copies < 1):
      raise ValueError("each member needs a number of copies, 1 or more")
    pool = np.union1d(self.members, self.held_out)
    if not np.array_equal(self.pool, pool):
      raise ValueError("the pool must be members and held_out together")

  @property
  def training_rows(self) -> Int[np.ndarray, " rows"]:
    """Member ids, each as often as it stands in training."""
    return np.repeat(self.members, self.copies)

  @property
  def shadow(self) -> int | None:
    """Of which shadow model this is the split; None of the main one."""
    return self.info.get("shadow")

  @property
  def digest(self) -> str:
    """sha256 of all the arrays."""
    shadows = np.zeros((0, 0), bool) if self.shadows is None else self.shadows
    arrays = [getattr(self, name) for name in ARRAYS[:-1]]
    return fingerprint(*arrays, shadows)


def random(
  dataset: Dataset,
  *,
  seed: int,
  members: int | None,
  held_out: int | None,
  calibration: int | None,
  path: str | os.PathLike | None,
) -> Parts:
  """Disjoint random parts of the images that differ in some pixel.

  Of exact duplicates only the lowest id may be drawn: a held-out copy of a
  member would be a false control.
  """
  sizes = {
    "members": members,
    "held_out": held_out,
    "calibration": calibration,
  }
  for key, size in sizes.items():
    if size is None or size < 0:
      raise ValueError(f"{key}={size}: the random split needs a number")
  if path is not None:
    raise ValueError(f"path={path}: the random split reads no file")
  first = duplicate_of(dataset.images)
  distinct = dataset.ids[first == np.arange(len(first))]
  wanted = [size for size in sizes.values() if size is not None]
  if sum(wanted) > len(distinct):
    raise ValueError(
      f"members + held_out + calibration = {' + '.join(map(str, wanted))} = "
      f"{sum(wanted)}, but the dataset has {len(distinct)} distinct images "
      f"({len(first) - len(distinct)} exact duplicates left out): ask for fewer"
    )
  order = distinct[permutation(len(distinct), seed, "membership")]
  a, b, c = np.cumsum(wanted)
  parts = np.sort(order[:a]), np.sort(order[a:b]), np.sort(order[b:c])
  return *parts, {"duplicates_left_out": len(first) - len(distinct)}


def bernoulli(
  dataset: Dataset,
  *,
  seed: int,
  members: int | None,
  held_out: int | None,
  calibration: int | None,
  path: str | os.PathLike | None,
) -> Parts:
  """As `random`, but each pool image is a member by a fair coin of its own.

  An audit of one run needs such independent inclusion; members + held_out is
  the size of the pool, and about half of it become members.
  """
  *parts, third, info = random(
    dataset,
    seed=seed,
    members=members,
    held_out=held_out,
    calibration=calibration,
    path=path,
  )
  pool = np.sort(np.concatenate(parts))
  heads = coins(len(pool), seed, "inclusion").astype(bool)
  return pool[heads], pool[~heads], third, info


SPLITS: dict[str, Callable[..., Parts]] = {
  "random": random,
  "bernoulli": bernoulli,
  "secmi-cifar10": secmi.cifar10,
}


def split(
  dataset: Dataset,
  *,
  seed: int,
  name: str = "random",
  members: int | None,
  held_out: int | None,
  calibration: int | None,
  planted: Sequence[Sequence[int]] = (),
  shadows: int = 0,
  shadow: int | None = None,
  path: str | os.PathLike | None = None,
) -> Split:
  """Draws a split.

  Args:
    dataset: what to split.
    seed: decides everything; 0 or more.
    name: "random", "bernoulli", or a published split ("secmi-cifar10").
    members: how many; None takes what a published split gives, 0 leaves
      shadow models alone, which share the held-out images.
    held_out: how many; None likewise.
    calibration: how many; None likewise.
    planted: pairs (copies, how many members stand in training that often).
    shadows: how many shadow models, even; each trains on a random half of
      members and held_out, the next one on the other half.
    shadow: of which of them the split is wanted; None for the main model.
    path: the file of a published split.

  Raises:
    ValueError: more is asked for than there is, or the dataset is not the one
      that the published split is for.
  """
  if name not in SPLITS:
    raise ValueError(f"split {name!r}: expected one of {list(SPLITS)}")
  if seed < 0:
    raise ValueError(f"seed={seed}: expected 0 or more")
  if name == "bernoulli" and planted:
    raise ValueError(
      f"planted={planted} with name='bernoulli': inclusion would be no fair "
      "coin among the images seen once; plant nothing"
    )
  inside, outside, third, info = SPLITS[name](
    dataset,
    seed=seed,
    members=members,
    held_out=held_out,
    calibration=calibration,
    path=path,
  )
  if not len(inside) and not shadows:
    raise ValueError(
      "members=0: a model needs images to train on; if there is to be none "
      "but shadow models, set shadows"
    )
  pool = np.sort(np.concatenate([inside, outside]))
  drawn = Split(
    members=inside,
    held_out=outside,
    calibration=third,
    copies=plant(len(inside), planted, seed),
    pool=pool,
    shadows=halves(len(pool), shadows, seed) if shadows else None,
  )
  counts = {key: len(getattr(drawn, key)) for key in SETS}
  pairs = [list(map(int, pair)) for pair in planted]
  made = {"name": name, "seed": seed, **counts, "planted": pairs}
  made |= {"shadows": shadows, "shadow": None}
  info = {**made, **info, "sha256": drawn.digest}
  drawn = dataclasses.replace(drawn, info=info)
  return drawn if shadow is None else of_shadow(drawn, shadow)


def of_shadow(split: Split, shadow: int) -> Split:
  """The split of one shadow model: its half of the pool against the rest.

  Nothing is planted; calibration, pool and masks stay.

  Raises:
    ValueError: there is no such shadow.
  """
  count = 0 if split.shadows is None else len(split.shadows)
  if split.shadows is None or not 0 <= shadow < count:
    raise ValueError(
      f"shadow={shadow}: the split has {count} shadows"
      + (f", 0 to {count - 1}" if count else ": set shadows, an even number")
    )
  mask = split.shadows[shadow]
  made = dataclasses.replace(
    split,
    members=split.pool[mask],
    held_out=split.pool[~mask],
    copies=np.ones(mask.sum(), np.int64),
  )
  counts = {key: len(getattr(made, key)) for key in SETS}
  what = {**counts, "planted": [], "shadow": shadow, "sha256": made.digest}
  info = {**split.info, **what}
  info.pop("canaries", None)  # they are the main model's
  return dataclasses.replace(made, info=info)


def plant(
  members: int, planted: Sequence[Sequence[int]], seed: int
) -> Int[np.ndarray, " b"]:
  """How often each member stands in training."""
  for pair in planted:
    if len(pair) != 2 or pair[0] < 1 or pair[1] < 0:
      raise ValueError(
        f"planted={tuple(pair)}: expected (copies >= 1, how many members)"
      )
  total = sum(count for _, count in planted)
  if total > members:
    raise ValueError(
      f"planted asks for {total} members to be repeated, but there are only "
      f"{members}: plant fewer, or take more members"
    )
  copies = np.ones(members, np.int64)
  chosen = permutation(members, seed, "planting")[:total]
  copies[chosen] = np.repeat(
    np.array([pair[0] for pair in planted], np.int64),
    np.array([pair[1] for pair in planted], np.int64),
  )
  return copies


def halves(pool: int, shadows: int, seed: int) -> Bool[np.ndarray, "s pool"]:
  """Complementary random halves: rows 2j and 2j+1 share nothing."""
  if shadows < 0 or shadows % 2:
    raise ValueError(
      f"shadows={shadows}: expected an even number, they come in pairs"
    )
  if pool < 2:
    raise ValueError(f"a pool of {pool} images has no two halves for shadows")
  masks = np.zeros((shadows, pool), bool)
  for pair in range(shadows // 2):
    order = permutation(pool, seed, "shadows", pair)
    masks[2 * pair, order[: pool // 2]] = True
    masks[2 * pair + 1] = ~masks[2 * pair]
  return masks


def save(split: Split, path: str | os.PathLike) -> None:
  """Writes a split as npz, whole or not at all."""
  arrays = {name: getattr(split, name) for name in ARRAYS}
  kept = {name: value for name, value in arrays.items() if value is not None}
  buffer = io.BytesIO()
  np.savez(buffer, info=np.array(json.dumps(split.info)), **kept)
  workdir.write_bytes(path, buffer.getvalue())


def read(path: str | os.PathLike) -> Split:
  """Reads what `save` wrote; ValueError where the file is damaged."""
  try:
    buffer = io.BytesIO(workdir.path(path).read_bytes())
    with np.load(buffer, allow_pickle=False) as file:
      arrays = {name: file[name] for name in ARRAYS if name in file.files}
      split = Split(**arrays, info=json.loads(str(file["info"])))
    if split.digest != split.info["sha256"]:
      raise ValueError("its arrays do not have the recorded sha256")
    return split
  except FileNotFoundError:
    raise
  except Exception as e:  # zipfile, zlib and NumPy each raise their own
    raise ValueError(
      f"{path} is damaged ({e}): delete it and run training again"
    ) from e

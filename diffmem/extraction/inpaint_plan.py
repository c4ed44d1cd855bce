# SPDX-License-Identifier: Apache-2.0
"""Which targets are reconstructed by which models.

With shadow models every target of the pool goes to one pair of them, in turn:
one model of the pair was trained on it, its partner was not. Both are attacked
alike, and a model of the next pair that never saw the target either ranks the
candidates of both (with one pair alone, the loss does).

Without shadow models the model of the workdir is attacked on members seen
once, on members seen several times, and on held-out images: other targets in
each group, ranked by the loss.
"""

import dataclasses
import os

from etils import epath

import diffmem.data
from diffmem import workdir
from diffmem.data import Dataset, Split, splits, streams

SEEN, NOT_SEEN = "seen", "not_seen"  # the same targets under both
ONCE, PLANTED, HELD_OUT = "seen_once", "planted", "held_out"


@dataclasses.dataclass(frozen=True)
class Task:
  """One target under one model.

  target: its id. group: what it is to the model. model: "main", or "shadow_3"
  as in a path. ranker: the shadow that ranks, or None. copies: how often the
  model saw it.
  """

  target: int
  group: str
  model: str
  ranker: str | None
  copies: int


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """tasks: in the order of drawing. folders, weights: of the models by name.

  paired: whether each target stands in it twice, seen and not seen.
  """

  dataset: Dataset
  split: Split
  tasks: tuple[Task, ...]
  folders: dict[str, epath.Path]
  weights: dict[str, str]
  paired: bool


def read(root: str | os.PathLike, *, targets: int, seed: int) -> Plan:
  """The plan for a workdir whose training has finished.

  Args:
    root: the workdir.
    targets: how many, with shadow models; else how many of each group.
    seed: of the order in which they are drawn.

  Raises:
    FileNotFoundError: a model is not trained.
    ValueError: a model was trained on another split, or there are no targets.
  """
  if targets < 1:
    raise ValueError(f"targets={targets}: expected at least 1")
  root = workdir.path(root)
  if not (root / "data" / "meta.json").exists():
    raise FileNotFoundError(
      f"{root / 'data'} holds no prepared data: run diffmem-train first"
    )
  dataset, split = diffmem.data.read(root / "data")
  paired = split.shadows is not None and split.shadow is None
  tasks = _pairs(split, targets, seed)
  if not paired:
    tasks = _groups(split, targets, seed)
  names = {task.model for task in tasks} | {
    task.ranker for task in tasks if task.ranker is not None
  }
  folders, weights = {}, {}
  for name in sorted(names):
    folders[name], weights[name] = _model(root, split, name)
  return Plan(dataset, split, tasks, folders, weights, paired)


def _pairs(split: Split, targets: int, seed: int) -> tuple[Task, ...]:
  masks = split.shadows
  if masks is None:
    return ()
  pairs = len(masks) // 2
  order = streams.permutation(len(split.pool), seed, "inpaint targets")
  tasks = []
  for n, place in enumerate(order[:targets]):
    own = 2 * (n % pairs)
    inside = own if masks[own, place] else own + 1
    other = 2 * ((n + 1) % pairs)
    ranker = other + 1 if masks[other, place] else other
    ranked = f"shadow_{ranker}" if pairs > 1 else None
    target = int(split.pool[place])
    for group, shadow in ((SEEN, inside), (NOT_SEEN, inside ^ 1)):
      name = f"shadow_{shadow}"
      tasks.append(Task(target, group, name, ranked, int(group == SEEN)))
  return tuple(tasks)


def _groups(split: Split, targets: int, seed: int) -> tuple[Task, ...]:
  copies = dict(zip(split.members.tolist(), split.copies.tolist(), strict=True))
  groups = {
    ONCE: split.members[split.copies == 1],
    PLANTED: split.members[split.copies > 1],
    HELD_OUT: split.held_out,
  }
  tasks = []
  for number, (group, ids) in enumerate(groups.items()):
    order = streams.permutation(len(ids), seed, "inpaint targets", number)
    for target in ids[order[:targets]].tolist():
      tasks.append(Task(target, group, "main", None, copies.get(target, 0)))
  if not any(task.group != HELD_OUT for task in tasks):
    raise ValueError("the split has no members: there is nothing to remember")
  return tuple(tasks)


def _model(root: epath.Path, split: Split, name: str) -> tuple[epath.Path, str]:
  """(its workdir, the hash of its weights), held to the split."""
  folder = root
  if name != "main":
    shadow = int(name.removeprefix("shadow_"))
    folder = root / "shadows" / str(shadow)
    split = splits.of_shadow(split, shadow)
  meta = workdir.require(folder, "train")
  if meta["inputs"].get("split") != split.digest:
    raise ValueError(
      f"{folder / 'train'} was trained on another split than that of "
      f"{root / 'data'}: it is not known what it saw; train it again"
    )
  return folder, meta["weights"]

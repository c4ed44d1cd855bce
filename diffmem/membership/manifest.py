# SPDX-License-Identifier: Apache-2.0
"""Which shadow models there are, and that they belong together.

An attack with shadows compares losses of many models on the images of one
pool. It is worth nothing if a model is missing from its pair, was trained on
another half than its mask says, or in another way than the rest. `read` holds
every shadow to the split of the workdir and to the config of the first one.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from etils import epath

from diffmem import workdir
from diffmem.arrays import Bool, Int
from diffmem.data import prepared, splits


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """One trained model.

  Attributes:
    name: "main", or "shadow_3": as in a path.
    folder: its workdir.
    shadow: its number, None of the main model.
    weights: their hash.
    inside: whether it was trained on image p of the pool.
    meta: of its training.
  """

  name: str
  folder: epath.Path
  shadow: int | None
  weights: str
  inside: Bool[np.ndarray, " pool"]
  meta: dict


@dataclasses.dataclass(frozen=True, eq=False)
class Manifest:
  """Shadow models in complete pairs, and the main model if there is one.

  Attributes:
    root: the workdir of all.
    split: of the main model; its pool and calibration part are those of all.
    shadows: ascending, 2j before 2j + 1.
    main: the model in <root>/train, if one was trained.
    dataset: the hash of the images.
  """

  root: epath.Path
  split: splits.Split
  shadows: tuple[Model, ...]
  main: Model | None
  dataset: str

  @property
  def models(self) -> tuple[Model, ...]:
    """All, the main one first."""
    return (*([] if self.main is None else [self.main]), *self.shadows)

  @property
  def masks(self) -> Bool[np.ndarray, "s pool"]:
    """Whether shadow s was trained on pool image p."""
    return np.stack([model.inside for model in self.shadows])

  @property
  def pool(self) -> Int[np.ndarray, " pool"]:
    """Ids that the masks are about."""
    return self.split.pool

  @property
  def digest(self) -> str:
    """Of all the weights and the split: what results depend on."""
    weights = {model.name: model.weights for model in self.models}
    return workdir.digest([weights, self.split.digest])


def read(
  root: str | os.PathLike,
  *,
  which: Sequence[int] | None = None,
  pairs: int = 2,
) -> Manifest:
  """The shadow models of a workdir, checked.

  Args:
    root: the workdir.
    which: numbers of the shadows to use; None for all of the split.
    pairs: how many pairs the attack needs: 1 to attack the main model, 2 to
      attack a shadow by those outside its pair.

  Raises:
    FileNotFoundError: nothing was prepared, or a shadow is not trained.
    ValueError: there are no shadows or too few, one stands without its
      partner, or one was trained on another split or by another config.
  """
  root = workdir.path(root)
  split, dataset = _split(root)
  count = 0 if split.shadows is None else len(split.shadows)
  numbers = range(count) if which is None else sorted(set(which))
  _check_numbers(root, numbers, count, pairs)
  shadows = _trained(root, split, numbers)
  main = None
  if (root / "train" / "meta.json").exists():
    meta = workdir.require(root, "train")
    inside = np.isin(split.pool, split.members)
    main = Model("main", root, None, meta["weights"], inside, meta)
  found = Manifest(root, split, shadows, main, dataset)
  for model in found.models:
    _check_alike(found, model)
  return found


def write(manifest: Manifest) -> None:
  """Keeps a record for people, <root>/shadows/manifest.json."""
  models = [
    {
      "name": model.name,
      "folder": os.fspath(model.folder.relative_to(manifest.root)),
      "members": int(model.inside.sum()),
      "weights": model.weights,
      "seconds": model.meta["seconds"],
    }
    for model in manifest.models
  ]
  first = manifest.shadows[0].meta
  config = _common(first)
  config["data"]["split"]["shadow"] = None  # as of all together
  record = {
    "shadows": len(manifest.shadows),
    "pool": len(manifest.pool),
    "calibration": len(manifest.split.calibration),
    "dataset": manifest.dataset,
    "split": manifest.split.digest,
    "models": models,
    "config": config,
    "parameters": first.get("parameters"),
    "seconds": round(sum(m.meta["seconds"] for m in manifest.shadows), 3),
    **{
      key: first[key]
      for key in ("started", "version", "commit", "hardware")
      if key in first
    },
  }
  workdir.write_json(manifest.root / "shadows" / "manifest.json", record)


def _split(root: epath.Path) -> tuple[splits.Split, str]:
  folder = root / "data"
  if not (folder / "meta.json").exists():
    raise FileNotFoundError(
      f"{folder} holds no prepared data: run diffmem-train first"
    )
  meta = workdir.read_json(folder / "meta.json")
  try:
    return prepared.read_split(folder, meta), meta["dataset"]["sha256"]
  except KeyError as e:
    raise ValueError(prepared.not_prepared(folder, e)) from None


def _check_numbers(
  root: epath.Path, numbers: Sequence[int], count: int, pairs: int
) -> None:
  if not count:
    raise ValueError(
      f"the split of {root} has no shadow models: train with data.split.shadows"
      " = an even number, in another --workdir"
    )
  wrong = [i for i in numbers if not 0 <= i < count]
  if wrong:
    raise ValueError(
      f"shadow {wrong[0]}: the split of {root} has shadows 0 to {count - 1}"
    )
  alone = [i for i in numbers if i ^ 1 not in numbers]
  if alone:
    raise ValueError(
      f"shadow {alone[0]} stands without its partner {alone[0] ^ 1}: use both, "
      "or every image would not be IN as many models as OUT"
    )
  if len(numbers) < 2 * pairs:
    raise ValueError(
      f"shadow models: {len(numbers)}, pairs: {len(numbers) // 2}; this attack "
      f"needs {pairs} pairs at least: train with data.split.shadows = "
      f"{2 * pairs} or more, in another --workdir"
    )


def _trained(
  root: epath.Path, split: splits.Split, numbers: Sequence[int]
) -> tuple[Model, ...]:
  """The shadows of these numbers; an error that lists all that are missing."""
  assert split.shadows is not None
  found, missing = [], []
  for i in numbers:
    folder = root / "shadows" / str(i)
    try:
      meta = workdir.require(folder, "train")
    except FileNotFoundError:
      missing.append(i)
      continue
    mask = split.shadows[i]
    name = f"shadow_{i}"
    found.append(Model(name, folder, i, meta["weights"], mask, meta))
  if missing:
    many = len(missing) > 1
    listed = ", ".join(map(str, missing))
    raise FileNotFoundError(
      f"shadow{'s' * many} {listed} of {split.shadows.shape[0]} "
      f"{'are' if many else 'is'} not trained to the end: run "
      f"{_command(root, missing[0])}"
      + (" and so on, or without shadow= for all in turn" if many else "")
    )
  return tuple(found)


def _check_alike(manifest: Manifest, model: Model) -> None:
  """ValueError unless the model is of this split and trained as the first."""
  inputs = model.meta["inputs"]
  split = manifest.split
  if model.shadow is not None:
    split = splits.of_shadow(split, model.shadow)
  for key, expected in (
    ("dataset", manifest.dataset),
    ("split", split.digest),
  ):
    if inputs.get(key) != expected:
      raise ValueError(
        f"{model.name} was trained on another {key} ({inputs.get(key, '')[:12]}"
        f"... instead of {expected[:12]}...): its mask says nothing about it; "
        + _again(manifest.root, model)
      )
  first = manifest.shadows[0]
  found = workdir.difference(_common(first.meta), _common(model.meta))
  if found is not None:
    key, was, now = found
    raise ValueError(
      f"{model.name} was trained with {key} = {now!r}, {first.name} with "
      f"{was!r}: they cannot be compared; {_again(manifest.root, model)}"
    )


def _common(meta: dict) -> dict:
  """The config that all models share: all but the number of the shadow."""
  config = meta["config"]
  split = {k: v for k, v in config["data"]["split"].items() if k != "shadow"}
  return {**config, "data": {**config["data"], "split": split}}


def _again(root: epath.Path, model: Model) -> str:
  return (
    f"delete {model.folder / 'data'} and {model.folder / 'train'} and run "
    f"{_command(root, model.shadow)}"
  )


def _command(root: epath.Path, shadow: int | None) -> str:
  one = "" if shadow is None else f":shadow={shadow}"
  return f"diffmem-train --config=...{one} --workdir={root}"

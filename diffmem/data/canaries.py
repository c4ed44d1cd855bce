# SPDX-License-Identifier: Apache-2.0
"""Canaries: images put into training to see how often is often enough.

Two kinds, each canary a function of (seed, kind, number) and the dataset:

  noise        independent uniform pixels, which nothing else resembles
  mislabelled  an image of the calibration part with a wrong label, for a
               class-conditional model; those that are inserted leave that part

Some stand in training 1, 2, .. times, some never (copies 0, the control), and
`reference` more of each kind never, which the others are ranked among. The
recipe is kept in `split.info["canaries"]`; their ids lie beyond the dataset's.
Only the main model is given canaries, shadow models are not.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8

from diffmem.data.dataset import Dataset, fingerprint
from diffmem.data.splits import Split
from diffmem.data.streams import permutation, words

KINDS = ("noise", "mislabelled")
Recipe = Sequence[Sequence[int]]  # pairs (copies, how many canaries)


@dataclasses.dataclass(frozen=True, eq=False)
class Canaries:
  """All canaries of a split, inserted ones and those to compare with.

  Attributes:
    kinds: of each, one of KINDS.
    images: pixels.
    labels: the class given to each; None where the dataset has none.
    copies: how often each stands in training.
    reference: whether it is there to be ranked among.
    ids: beyond those of the dataset.
  """

  kinds: np.ndarray
  images: UInt8[np.ndarray, "k h w c"]
  labels: Int[np.ndarray, " k"] | None
  copies: Int[np.ndarray, " k"]
  reference: Bool[np.ndarray, " k"]
  ids: Int[np.ndarray, " k"]

  @property
  def digest(self) -> str:
    """sha256 of pixels, labels and copies."""
    labels = np.zeros(0, np.int64) if self.labels is None else self.labels
    return fingerprint(self.images, labels, self.copies, self.reference)


def insert(
  dataset: Dataset,
  split: Split,
  *,
  seed: int,
  noise: Recipe,
  mislabelled: Recipe,
  reference: int,
) -> Split:
  """The split with its canaries.

  Args:
    dataset: what was split.
    split: of the main model or of a shadow.
    seed: of the canaries.
    noise: pairs (copies, how many), copies 0 for a control.
    mislabelled: the same.
    reference: how many of each kind are never inserted, to be ranked among;
      the largest exposure is its base-2 logarithm.

  Raises:
    ValueError: a recipe that cannot be, or too few images or labels for it.
  """
  for name, recipe in (("noise", noise), ("mislabelled", mislabelled)):
    for pair in recipe:
      if len(pair) != 2 or pair[0] < 0 or pair[1] < 1:
        raise ValueError(
          f"canaries.{name} holds {tuple(pair)}: expected (copies >= 0, how "
          "many >= 1)"
        )
  if reference < 1 or not (noise or mislabelled):
    raise ValueError(
      f"canaries.reference={reference} with {len(noise)} and "
      f"{len(mislabelled)} pairs: expected 1 or more, and some canaries"
    )
  recipe = {
    "seed": int(seed),
    "noise": [list(map(int, pair)) for pair in noise],
    "mislabelled": [list(map(int, pair)) for pair in mislabelled],
    "reference": int(reference),
    "calibration": list(map(int, _borrowed(dataset, split, seed, mislabelled))),
  }
  kept = np.setdiff1d(split.calibration, recipe["calibration"])
  smaller = dataclasses.replace(split, calibration=kept)
  info = {**split.info, "calibration": len(kept), "sha256": smaller.digest}
  if split.shadow is None:
    found = _made(dataset, smaller, recipe)
    info["canaries"] = {**recipe, "sha256": found.digest}
  return dataclasses.replace(smaller, info=info)


def make(dataset: Dataset, split: Split) -> Canaries | None:
  """The canaries of a split, made again; None where it has none.

  Raises:
    ValueError: they are not those that the split records.
  """
  recipe = split.info.get("canaries")
  if recipe is None:
    return None
  found = _made(dataset, split, recipe)
  if found.digest != recipe["sha256"]:
    raise ValueError(
      "the canaries of this split come out otherwise than when it was made: "
      "use the diffmem version that made it"
    )
  return found


def training(
  dataset: Dataset, split: Split
) -> tuple[Dataset, Int[np.ndarray, " rows"]]:
  """What a model trains on: images with canaries, and the row of each copy."""
  rows = dataset.rows(split.training_rows)
  found = make(dataset, split)
  if found is None:
    return dataset, rows
  inside = np.flatnonzero(found.copies)
  first = len(dataset)
  extra = np.repeat(first + np.arange(len(inside)), found.copies[inside])
  labels, captions, names = dataset.labels, dataset.captions, dataset.names
  if labels is not None and found.labels is not None:
    labels = np.concatenate([labels, found.labels[inside]])
  larger = dataclasses.replace(
    dataset,
    images=np.concatenate([dataset.images, found.images[inside]]),
    ids=np.concatenate([dataset.ids, found.ids[inside]]),
    labels=labels,
    captions=None if captions is None else (*captions, *[""] * len(inside)),
    names=None if names is None else (*names, *["canary"] * len(inside)),
  )
  return larger, np.concatenate([rows, extra])


def trained_on(split: Split) -> int:
  """Images in an epoch of training, each copy and each canary counted."""
  recipe = split.info.get("canaries", {})
  pairs = [pair for kind in KINDS for pair in recipe.get(kind, ())]
  return len(split.training_rows) + sum(c * many for c, many in pairs)


def check(split: Split, num_classes: int | None) -> None:
  """ValueError where a model without classes would be given wrong labels."""
  recipe = split.info.get("canaries")
  if recipe and recipe["mislabelled"] and num_classes is None:
    raise ValueError(
      "data.canaries.mislabelled is for a model with classes: set "
      "models.num_classes, or leave them out"
    )


def _borrowed(
  dataset: Dataset, split: Split, seed: int, mislabelled: Recipe
) -> Int[np.ndarray, " k"]:
  """Calibration ids that become inserted mislabelled canaries."""
  if not mislabelled:
    return np.zeros(0, np.int64)
  if dataset.labels is None or (dataset.num_classes or 0) < 2:
    raise ValueError(
      "canaries.mislabelled needs a dataset of two labelled classes or more"
    )
  many = sum(pair[1] for pair in mislabelled)
  if many >= len(split.calibration):
    raise ValueError(
      f"canaries.mislabelled asks for {many} images of the calibration part, "
      f"which has {len(split.calibration)}: raise data.split.calibration"
    )
  order = permutation(len(split.calibration), seed, "canary images")
  return split.calibration[order[:many]]


def _made(dataset: Dataset, split: Split, recipe: dict) -> Canaries:
  """Both kinds; the split is the one that the inserted have left."""
  seed, reference = recipe["seed"], recipe["reference"]
  kinds, images, labels, copies = [], [], [], []
  for kind in KINDS:
    if not recipe[kind]:
      continue
    inserted = [c for c, many in recipe[kind] for _ in range(many)]
    total = len(inserted) + reference
    if kind == "noise":
      pixels, named = _noise(dataset, seed, total)
    else:
      borrowed = np.array(recipe["calibration"], np.int64)
      pixels, named = _mislabelled(dataset, split, seed, borrowed, reference)
    kinds += [kind] * total
    images.append(pixels)
    labels.append(named)
    copies += [*inserted, *[-1] * reference]
  copies = np.array(copies, np.int64)
  return Canaries(
    kinds=np.array(kinds),
    images=np.concatenate(images),
    labels=None if dataset.labels is None else np.concatenate(labels),
    copies=np.maximum(copies, 0),
    reference=copies < 0,
    ids=dataset.ids[-1] + 1 + np.arange(len(copies)),
  )


def _noise(dataset: Dataset, seed: int, total: int):
  """(pixels, labels or None) of canaries 0 .. total - 1."""
  shape = dataset.images.shape[1:]
  size = int(np.prod(shape))
  images = np.empty((total, *shape), np.uint8)
  for i in range(total):
    raw = words(-(-size // 8), seed, "canary noise", i).astype("<u8")
    images[i] = raw.view(np.uint8)[:size].reshape(shape)
  if dataset.labels is None:
    return images, None
  raw = words(total, seed, "canary labels")
  return images, (raw % np.uint64(dataset.num_classes or 1)).astype(np.int64)


def _mislabelled(
  dataset: Dataset,
  split: Split,
  seed: int,
  borrowed: Int[np.ndarray, " k"],
  reference: int,
):
  """(pixels, wrong labels): the inserted, then images that stay outside.

  An image outside may be taken with several wrong labels.
  """
  wrong = (dataset.num_classes or 1) - 1
  pairs = len(split.calibration) * wrong
  if reference > pairs:
    raise ValueError(
      f"canaries.reference={reference}: {len(split.calibration)} calibration "
      f"images have only {pairs} wrong labels; lower it"
    )
  chosen = permutation(pairs, seed, "canary pairs")[:reference]
  ids = np.concatenate([borrowed, split.calibration[chosen // wrong]])
  shift = words(len(borrowed), seed, "canary shifts") % np.uint64(wrong)
  shift = np.concatenate([shift.astype(np.int64), chosen % wrong])
  rows = dataset.rows(ids)
  right = dataset.labels[rows] if dataset.labels is not None else rows
  return dataset.images[rows], (right + 1 + shift) % (wrong + 1)

# SPDX-License-Identifier: Apache-2.0
"""The papers' claims, each as one number a seed that it says is positive.

C1 to C17 are claims of Carlini et al. 2023 (arXiv:2301.13188), S1 to S8 of Chen
et al. (SIDE, arXiv:2410.02467) and of what they build on. Where an arm that a
row needs is missing, it is not measured.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from diffmem import stats
from diffmem.report import study_reads as reads
from diffmem.report import study_side as side
from diffmem.report.study_reads import Measured


@dataclasses.dataclass(frozen=True)
class Row:
  """A claim; what is measured; its unit; the arms; how it is read off them."""

  id: str
  claim: str
  quantity: str
  arms: tuple[str, ...]
  read: Callable[..., Measured]
  source: str = "Carlini et al. 2023"
  unit: str = "seeds"


SIDE = "Chen et al., SIDE"
ROWS = (
  Row(
    "C1",
    "Diffusion models regurgitate training images",
    "training images reproduced, less held-out ones",
    ("ddpm",),
    reads.regurgitates,
  ),
  Row(
    "C2",
    "Plain distance flags images that were never seen; the ratio to the "
    "neighbourhood does not",
    "held-out images among the first 100, distance less ratio",
    ("ddpm",),
    reads.flat,
  ),
  Row(
    "C3",
    "The rule's alpha and n matter little",
    "images reproduced before "
    "deduplication less after, by the rule where that is least",
    ("ddpm", "dedup"),
    reads.robust,
  ),
  Row(
    "C4",
    "Duplicated images are extracted",
    "share found of those 10 times or "
    "more in training, less those once or twice",
    ("ddpm",),
    reads.copies,
  ),
  Row(
    "C5a",
    "Deduplication lowers extraction",
    "images reproduced, before less after",
    ("ddpm", "dedup"),
    reads.dedup,
  ),
  Row(
    "C5b",
    "Deduplication does not end it",
    "training images reproduced after it, less held-out ones",
    ("dedup",),
    reads.dedup_leaves,
  ),
  Row(
    "C5c",
    "... and at equal steps makes images seen once easier to recognise",
    "AUC of the loss attack, after less before",
    ("ddpm", "dedup"),
    reads.dedup_once,
    "not a claim of the paper",
  ),
  Row(
    "C6",
    "LiRA recognises more than a loss threshold",
    "rate at 1% false alarms, LiRA less threshold",
    ("shadows",),
    reads.lira,
  ),
  Row(
    "C7",
    "A noise level in the middle is best",
    "rate at 1% of LiRA, best time inside the range less the better end",
    ("shadows",),
    reads.middle,
  ),
  Row(
    "C8",
    "Averaging over noise helps",
    "rate at 1% of LiRA, most draws less one",
    ("shadows",),
    reads.averaging,
  ),
  Row(
    "C9a",
    "Longer training leaks more",
    "AUC of the loss attack, 4,000 steps less 500",
    ("ddpm", "short"),
    reads.longer,
  ),
  Row(
    "C9b",
    "... and those models are the better ones",
    "Fréchet distance, 500 steps less 4,000",
    ("ddpm", "short"),
    reads.better,
  ),
  Row(
    "C10",
    "Images unlike all others are the easiest to recognise",
    "rank correlation of LiRA's score with the distance to the nearest others",
    ("shadows",),
    reads.outliers,
  ),
  Row(
    "C11",
    "Hidden halves of training images are filled in better",
    "distance to the original, not seen less seen",
    ("shadows",),
    reads.halves,
  ),
  Row(
    "C12a",
    "Diffusion models give away more than GANs of equal quality",
    "images reproduced, diffusion (1,500 steps) less DiffBigGAN",
    ("equal", "gan"),
    reads.gans,
  ),
  Row(
    "C12b",
    "... and more than StyleGAN-ADA, both of a higher quality",
    "images reproduced, diffusion (4,000 steps) less StyleGAN-ADA",
    ("ddpm", "stylegan"),
    reads.gans,
  ),
  Row(
    "C13",
    "Both memorize the same images",
    "images that both reproduce, less what chance gives",
    ("ddpm", "gan"),
    reads.overlap,
  ),
  Row(
    "C14",
    "Generations of one prompt that agree betray a memorized image",
    "share of prompts flagged, planted less others",
    ("prompts",),
    reads.prompts,
  ),
  Row(
    "C15",
    "Two copies of a canary suffice for a high exposure",
    "exposure in bits, twice inserted less never",
    ("canaries",),
    reads.canaries,
  ),
  Row(
    "C16",
    "DP-SGD ruins the model",
    "Fréchet distance in thousandths, with DP-SGD (epsilon 50) less without",
    ("short", "private"),
    reads.private,
  ),
  Row(
    "C17",
    "Class-conditional models leak more",
    "AUC of the loss attack, with classes less without",
    ("ddpm", "classes"),
    reads.classes,
  ),
  Row(
    "S1",
    "Guided to its own clusters, a model gives more matches than plain "
    "sampling",
    "AMS at 1% false matches, net of the other half",
    ("side",),
    side.guided("AMS, 0.01", "unguided"),
    SIDE,
    "pairs",
  ),
  Row(
    "S2",
    "... and than guidance by a classifier that knows no noise",
    "AMS at 1% false matches, net of the other half",
    ("side",),
    side.guided("AMS, 0.01", "plain"),
    SIDE,
    "pairs",
  ),
  Row(
    "S3",
    "... and more different images",
    "UMS at 0.2% false matches, net of the other half",
    ("side",),
    side.guided("UMS, 0.002", "unguided"),
    SIDE,
    "pairs",
  ),
  Row(
    "S4",
    "Informative labels increase memorization",
    "fall of the divergence to training images",
    ("measures",),
    side.labels("informative"),
    SIDE,
  ),
  Row(
    "S5",
    "Random labels do, too",
    "fall of the divergence to training images",
    ("measures",),
    side.labels("random"),
    "Gu et al. 2023",
  ),
  Row(
    "S6",
    "A label for each image does",
    "fall of the divergence to training images",
    ("measures",),
    side.labels("unique"),
    "Gu et al. 2023",
  ),
  Row(
    "S7",
    "Memorization falls with the size of the training set",
    "share of copies, fewest images less most",
    ("measures",),
    side.sizes,
    "Gu et al. 2023",
  ),
  Row(
    "S8",
    "Memorization rises with training time",
    "share of copies, last step less first, fewest images",
    ("measures",),
    side.time,
    "Gu et al. 2023",
  ),
  Row(
    "F1",
    "C1 on Fashion-MNIST, 8 x 8",
    "training images reproduced, less held-out ones",
    ("fashion",),
    reads.regurgitates,
  ),
  Row(
    "F2",
    "C2 on Fashion-MNIST",
    "held-out images among the first 100, distance less ratio",
    ("fashion",),
    reads.flat,
  ),
  Row(
    "F4",
    "C4 on Fashion-MNIST",
    "share found of those 10 times or more in "
    "training, less those once or twice",
    ("fashion",),
    reads.copies,
  ),
  Row(
    "F12",
    "C12b on Fashion-MNIST",
    "images reproduced, diffusion (4,000 steps) less StyleGAN-ADA",
    ("fashion", "fashion_stylegan"),
    reads.gans,
  ),
  Row(
    "K1",
    "C1 on CIFAR-10, 1,000 images",
    "training images reproduced, less held-out ones",
    ("cifar",),
    reads.regurgitates,
  ),
  Row(
    "K2",
    "C2 on CIFAR-10",
    "held-out images among the first 100, distance less ratio",
    ("cifar",),
    reads.flat,
  ),
  Row(
    "K4",
    "C4 on CIFAR-10",
    "share found of those 10 times or more in training, less those once or "
    "twice",
    ("cifar",),
    reads.copies,
  ),
  Row(
    "K7",
    "S7 on CIFAR-10, 1,000 against 8,000 images",
    "share of training images reproduced, smaller set less larger",
    ("cifar", "cifar_more"),
    reads.fewer,
    "Gu et al. 2023",
  ),
)


def measure(observed: dict[str, dict[str, dict]]) -> list[dict[str, Any]]:
  """All rows, with their tests adjusted for each other (Holm 1979).

  observed: {arm: {seed: what `study_observe.observe` gives}}.
  """
  rows = [_read(row, observed) for row in ROWS]
  tested = [row for row in rows if row["p"] is not None]
  for row, p in zip(
    tested, stats.holm([row["p"] for row in tested]), strict=True
  ):
    row["adjusted"] = p
  for row in rows:
    row["verdict"] = verdict(row)
  return rows


def _read(row: Row, observed: dict[str, dict[str, dict]]) -> dict[str, Any]:
  """One row; without numbers where an arm, or a seed of it, is missing."""
  found = {
    "id": row.id,
    "claim": row.claim,
    "source": row.source,
    "quantity": row.quantity,
    "arms": list(row.arms),
    "unit": row.unit,
    "values": [],
    "p": None,
    "adjusted": None,
  }
  common = set.intersection(*(set(observed.get(a, {})) for a in row.arms))
  if not common:
    return found
  seeds = sorted(common, key=int)
  measured = row.read(*([observed[a][s] for s in seeds] for a in row.arms))
  test = stats.student(measured.values)
  return found | dataclasses.asdict(measured) | dataclasses.asdict(test)


def verdict(row: dict[str, Any], *, level: float = 0.05) -> str:
  """What the numbers of a row allow to say.

  "holds": five or more units, all of one sign, and an adjusted p below the
  level. "does not hold": the interval of the mean lies below zero. Otherwise it
  is "not resolvable at this size", and "not yet run" without numbers.
  """
  if not row["values"]:
    return "not yet run"
  enough = row["count"] >= 5
  if enough and row["high"] < 0:
    return "does not hold"
  all_of_one_sign = row["positive"] == row["count"]
  if enough and all_of_one_sign and row["adjusted"] < level:
    return "holds" if not row["doubt"] else "not resolvable at this size"
  return "not resolvable at this size"

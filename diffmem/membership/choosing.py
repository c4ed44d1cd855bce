# SPDX-License-Identifier: Apache-2.0
"""What is tuned is tuned apart: who chooses, who sets thresholds, who reports.

Nothing is tuned on the images that it is reported on. The scored images fall
into

  choose       a share of the members seen once and of the held-out images,
               drawn from the seed: they choose times and train networks
  calibration  images outside training that took part in nothing: they set
               thresholds that are carried over (where there are none, the
               held-out images that choose do)
  report       the rest: every number of the report comes from these

The direction of a score is never chosen: higher means member.
"""

import dataclasses

import numpy as np

from diffmem import stats
from diffmem.arrays import Bool, Float, Int
from diffmem.data import streams

CRITERIA = ("auc", "tpr@0.01", "tpr@0.001")


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
  """Which of the scored images are used for what.

  Attributes:
    copies: how often each image stands in training, 0 for the others.
    choose: on which times are chosen; members seen once, and held-out ones.
    fit: half of these; an attack that learns does so on them, and chooses
      its time on the others.
    calibration: non-members that set thresholds.
  """

  copies: Int[np.ndarray, " n"]
  choose: Bool[np.ndarray, " n"]
  fit: Bool[np.ndarray, " n"]
  calibration: Bool[np.ndarray, " n"]

  @property
  def report(self) -> Bool[np.ndarray, " n"]:
    """The images that numbers come from, planted ones included."""
    return ~self.choose & ~self.calibration

  def rows(
    self, where: Bool[np.ndarray, " n"], copies: int
  ) -> Int[np.ndarray, " s"]:
    """Rows of the images there that stand in training so often."""
    return np.flatnonzero(where & (self.copies == copies))

  def count(self, where: Bool[np.ndarray, " n"]) -> dict[str, int]:
    """Members seen once and non-members there."""
    return {
      "members": len(self.rows(where, 1)),
      "non_members": len(self.rows(where, 0)),
    }


def draw(
  copies: Int[np.ndarray, " n"],
  calibration: Bool[np.ndarray, " n"],
  *,
  share: float,
  seed: int,
) -> Parts:
  """Sets a share of members seen once, and of held-out images, aside.

  Args:
    copies: how often each image stands in training, 0 for the others; all 0
      where there is no model but shadows, then they are one class.
    calibration: which images belong to the calibration part.
    share: of each class, at least 0 and less than 1; 0 sets nothing aside.
    seed: of the draw.

  Raises:
    ValueError: a share that cannot be, or that leaves a class without images
      on either side.
  """
  if not 0 <= share < 1:
    raise ValueError(f"choose = {share}: expected at least 0, less than 1")
  if np.any(calibration & (copies > 0)):
    raise ValueError("calibration images must be outside training")
  choose, fit = np.zeros((2, len(copies)), bool)
  for name, rows in (
    ("members seen once", np.flatnonzero(copies == 1)),
    ("held-out images", np.flatnonzero((copies == 0) & ~calibration)),
  ):
    if not len(rows) and not copies.any():
      continue
    count = round(share * len(rows))
    if not count < len(rows) or (share and not count):
      raise ValueError(
        f"choose = {share} of {len(rows)} {name} is {count}: some must choose "
        "and some be reported on; change membership.choose or data.split"
      )
    order = streams.permutation(len(rows), seed, f"membership choice: {name}")
    choose[rows[order[:count]]] = True
    fit[rows[order[: count // 2]]] = True
  return Parts(copies, choose, fit, calibration)


def check_criterion(criterion: str, non_members: int) -> None:
  """ValueError unless so many non-members can tell it."""
  if criterion not in CRITERIA:
    raise ValueError(
      f"membership.criterion = {criterion!r}: expected one of "
      f"{', '.join(CRITERIA)}"
    )
  if criterion == "auc":
    return
  fpr = float(criterion.partition("@")[2])
  if 1 / non_members > fpr:
    raise ValueError(
      f"membership.criterion = {criterion!r} cannot be told from the "
      f"{non_members} non-members that choose: take 'auc', or raise "
      f"membership.choose to have {round(1 / fpr)}"
    )


def best_time(
  member: Float[np.ndarray, "a t"],
  non_member: Float[np.ndarray, "b t"],
  criterion: str,
) -> int:
  """The column where these are told apart best; the first of equals."""
  check_criterion(criterion, len(non_member))
  found = []
  for a, b in zip(member.T, non_member.T, strict=True):
    if criterion == "auc":
      found.append(stats.auc(a, b))
    else:
      found.append(stats.tpr_at(a, b, float(criterion.partition("@")[2])))
  return int(np.argmax(found))


def threshold(non_members: Float[np.ndarray, " m"], fpr: float) -> float | None:
  """Scores at or above it say member; a non-member gets there by `fpr`.

  With the m scores sorted, S_(1) >= S_(2) >= .., a fresh non-member exceeds
  S_(k) with probability k / (m + 1), whatever their distribution (ties make
  it less). So the threshold is just above S_(k), k = floor(fpr (m + 1)). None
  where k = 0: so few images cannot set a threshold for so low a rate.
  """
  k = int(np.floor(fpr * (len(non_members) + 1) + 1e-9))
  if not k:
    return None
  ranked = np.sort(np.asarray(non_members, np.float64))[::-1]
  return float(np.nextafter(ranked[k - 1], np.inf))

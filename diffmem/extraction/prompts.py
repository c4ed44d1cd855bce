# SPDX-License-Identifier: Apache-2.0
"""The generations of one prompt: do many of them look like one image?

Of a memorized prompt many seeds give the same picture (Carlini et al.,
arXiv 2301.13188, section 4.2). With w_ij the distance of two generations of
the prompt (`distances.patch_max`) and m the smallest clique that counts,

  tightest = min over m images of the largest w_ij among them,

the smallest edge at which they hold a clique of m. A prompt is flagged

  <=>  they hold a clique of m with all w_ij <= edge  <=>  tightest <= edge,

and what is reported of it is the best clique (`cliques`) and its medoid. So
one number a prompt, which knows no edge, says at which edges it is flagged:
`prompt_edge` chooses the edge among such numbers.

Images without content are all alike. One whose pixels have a standard
deviation below `flat` around the mean of their channel, in [0, 1], is left
out and counted. A clique says that the model repeats itself, which a model
that has collapsed does too: with training images the medoid is looked up.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from diffmem import distances
from diffmem.arrays import Bool, Float, Int, UInt8
from diffmem.extraction import cliques
from diffmem.extraction.cliques import Answer
from diffmem.extraction.tightest import tightest

BINS = np.linspace(0, 1, 201)  # of histograms of distances
LINES = 32  # of an image, one of which a first look takes
LOOK = 1 << 20  # values that it takes at once


@dataclasses.dataclass(frozen=True)
class Measured:
  """What is kept of a prompt's distances.

  prompt: its id; rows: the images that were compared, ascending; flat: how
  many were left out as flat; over: how many as beyond the limit.
  tightest: see above, inf where there are fewer than m images; proven: that
  nothing is tighter (otherwise the search's budget ended first).
  pairs, lengths: all pairs of rows within `cap`, where m could be; else none.
  histogram: counts of the distances of all pairs in BINS.
  """

  prompt: int
  rows: Int[np.ndarray, " p"]
  flat: int
  over: int
  tightest: float
  proven: bool
  pairs: Int[np.ndarray, "e 2"]
  lengths: Float[np.ndarray, " e"]
  histogram: Int[np.ndarray, " b"]


@dataclasses.dataclass(frozen=True)
class Tested:
  """A prompt and the best clique of its generations; see `cliques.Answer`."""

  measured: Measured
  answer: Answer

  @property
  def flagged(self) -> bool:
    return self.answer.clique is not None

  @property
  def undecided(self) -> bool:
    """Whether the budget ended before a clique was found or excluded."""
    return self.answer.clique is None and not self.answer.exact


def default_patch(height: int, width: int) -> int | None:
  """A quarter of the side (512: 128); None, the whole image, below 64.

  Of sides that a quarter does not divide, the nearest size that divides both,
  between an eighth and a half; None where there is none.
  """
  side = min(height, width)
  if side < 64:
    return None
  common = math.gcd(height, width)
  sizes = [
    p for p in range(side // 8, side // 2 + 1) if p > 0 and common % p == 0
  ]
  return min(sizes, key=lambda p: abs(math.log(4 * p / side)), default=None)


def busy(
  images: UInt8[np.ndarray, "n h w c"], flat: float
) -> Bool[np.ndarray, " n"]:
  """Which images are not flat.

  Pixels vary no less around their mean than some of them do around theirs:
  for most images every LINES-th line settles it.
  """
  enough = (255 * flat) ** 2 * math.prod(images.shape[1:])
  found = np.empty(len(images), bool)
  step = max(1, LOOK * LINES // math.prod(images.shape[1:]))
  for start in range(0, len(images), step):
    part = images[start : start + step]
    found[start : start + step] = _squares(part[:, ::LINES]) >= enough
  for i in np.flatnonzero(~found):
    found[i] = _squares(images[i : i + 1])[0] >= enough
  return found


def _squares(
  images: UInt8[np.ndarray, "n i w c"],
) -> Float[np.ndarray, " n"]:
  """Sums of squares around the means of each image's channels."""
  n, _, _, c = images.shape
  pixels = np.moveaxis(images, -1, 1).reshape(n, c, -1).astype(np.float32)
  size = math.prod(images.shape[1:])
  return pixels.var(axis=2).mean(axis=1).astype(np.float64) * size


def matrix(
  images: UInt8[np.ndarray, "n h w c"], patch: int | None
) -> Float[np.ndarray, "n n"]:
  """Distances of all pairs; patch None: of whole images."""
  if patch is None:  # one patch of one "pixel" that has all the values
    images, patch = images.reshape(len(images), 1, 1, -1), 1
  return distances.patch_max(images, patch)


def measure(
  images: UInt8[np.ndarray, "n h w c"],
  rows: Int[np.ndarray, " n"],
  *,
  prompt: int,
  minimum: int,
  patch: int | None,
  cap: float,
  flat: float,
  over: int = 0,
) -> Measured:
  """Compares all generations of a prompt with each other.

  images: of the prompt; rows: their ids, ascending; minimum: m; cap: no edge
  above it will be asked for; over: how many more there are.
  """
  kept = np.flatnonzero(busy(images, flat))
  none = np.empty((0, 2), np.int64)
  about = {
    "prompt": prompt,
    "rows": np.asarray(rows, np.int64)[kept],
    "flat": len(images) - len(kept),
    "over": over,
  }
  if len(kept) < 2:
    return Measured(
      **about,
      tightest=math.inf,
      proven=True,
      pairs=none,
      lengths=np.empty(0),
      histogram=np.zeros(len(BINS) - 1, np.int64),
    )
  if len(kept) < len(images):
    images = images[kept]
  between = matrix(images, patch)
  value, proven = tightest(between, minimum)
  pairs = none
  if len(kept) >= minimum and (value <= cap or not proven):
    pairs = within(between, cap)
  return Measured(
    **about,
    tightest=value,
    proven=proven,
    pairs=about["rows"][pairs],
    lengths=between[pairs[:, 0], pairs[:, 1]],
    histogram=histogram(between[np.triu_indices(len(between), 1)]),
  )


def within(
  between: Float[np.ndarray, "n n"], edge: float
) -> Int[np.ndarray, "e 2"]:
  """Pairs i < j at distance <= edge."""
  return np.argwhere(np.triu(between <= edge, 1)).astype(np.int64)


def histogram(values: Float[np.ndarray, " v"]) -> Int[np.ndarray, " b"]:
  """Counts in BINS."""
  return np.histogram(values, BINS)[0].astype(np.int64)


def test(
  measured: Measured, *, edge: float, minimum: int, budget: int
) -> Tested:
  """The best clique of a prompt at an edge, at most the cap it was measured at.

  budget: units of work; where it ends first the prompt may be undecided.
  """
  if measured.tightest > edge and measured.proven:
    bound = min(minimum - 1, len(measured.rows))
    return Tested(measured, Answer(None, bound, True, 0))
  near = measured.lengths <= edge
  return Tested(
    measured,
    cliques.best_clique_of_edges(
      measured.pairs[near],
      measured.lengths[near],
      edge,
      minimum,
      ids=measured.rows,
      budget=budget,
    ),
  )


def rank(tested: Sequence[Tested]) -> list[Tested]:
  """The flagged prompts, smallest mean distance in the clique first."""
  found = [
    (t.answer.clique.mean, t.measured.prompt, t)
    for t in tested
    if t.answer.clique is not None
  ]
  return [t for _, _, t in sorted(found, key=lambda entry: entry[:2])]


def check(
  *, minimum: int, edge: float | None, flat: float, limit: int, budget: int
) -> None:
  """ValueError unless these can be used."""
  if minimum < 2:
    raise ValueError(
      f"prompts.minimum = {minimum}, expected a clique of at least 2 images"
    )
  if edge is not None and not 0 < edge <= 1:
    raise ValueError(
      f"prompts.edge = {edge}, expected a distance in (0, 1] such as 0.1, or "
      "None to calibrate it"
    )
  if not 0 <= flat < 1:
    raise ValueError(f"prompts.flat = {flat}, expected 0 (none) or e.g. 0.02")
  if limit < minimum:
    raise ValueError(
      f"prompts.limit = {limit}, expected at least prompts.minimum = {minimum}"
    )
  if budget < 0:
    raise ValueError(f"prompts.budget = {budget}, expected 0 or more")

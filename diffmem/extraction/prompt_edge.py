# SPDX-License-Identifier: Apache-2.0
"""Which distance makes an edge of a prompt's graph: it was never published.

What matters is the share of ordinary prompts that are flagged, those that
give many pictures of one subject and no picture again. `tightest` (module
`prompts`) is one number s a prompt, flagged <=> s <= edge. Three rules:

across    A low quantile of the distances of pairs of different prompts,
          which are no copies of a common source unless their prompts share
          it. A rate per pair. Pairs of one prompt are nearer (one subject,
          other seeds), so that this edge alone flags ordinary prompts, the
          more the more alike their images are, and groups of images of
          different prompts, the control, are flagged less often than ordinary
          prompts. It is the most that an edge can be.
ordinary  The default: ordinary prompts of this bank say where their own s
          lie. With x = log s of prompts beyond the edge, mu their median and
          sigma^2 the mean of (x - mu)^2 of those above it, which copies
          cannot reach,

            edge = exp(mu - z sigma),   z = quantile of N(0, 1) at 1 - rate,

          repeated from the edge `across` downwards until nothing changes.
          `rate` is that of ordinary prompts that are flagged, if x is
          symmetric. It takes ORDINARY such prompts; with fewer, as where most
          prompts are memorized, `across` is used.
unsuspected  Prompts that somebody names: their s, by `stats.calibrate`.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

from diffmem import stats
from diffmem.arrays import Float, Int

ORDINARY = 20  # prompts that it takes
CHANCE = 2.0  # pairs a prompt that may be as near as those of other prompts
PARTS = 20  # groups of prompts that are resampled
FINE = 4096  # bins of a distance for the resampling
RESAMPLES = 1000  # of prompts
DRAWS = 200  # of parts
STEP = 10  # between the rates that a tail is read off at
ENDS = (0.05, 0.95)


@dataclasses.dataclass(frozen=True)
class Across:
  """The edge that `rate` of the pairs of different prompts is within.

  value; interval: 90% when prompts are resampled; pairs, images, prompts: of
  the sample; histogram: of its distances, in given bins.
  """

  value: float
  interval: tuple[float, float]
  rate: float
  pairs: int
  images: int
  prompts: int
  histogram: Int[np.ndarray, " b"]


@dataclasses.dataclass(frozen=True)
class Edge:
  """value; method: "given", "across", "ordinary" or "unsuspected".

  rate: what the method states (of pairs, or of prompts), None if given;
  interval: 90%; prompts: that it rests on; ordinary: how many prompts look
  ordinary, and the edge at their rate if nothing bounded it, None if they
  are too few.
  """

  value: float
  method: str
  rate: float | None
  interval: tuple[float, float]
  prompts: int
  ordinary: tuple[int, float | None] = (0, None)


def pair_rate(asked: float, size: int) -> float:
  """The rate per pair for prompts of `size` images, at most what is asked.

  So that only CHANCE pairs of a prompt would be joined if they were pairs of
  different prompts: the more images, the more cliques chance makes.
  """
  return min(asked, CHANCE / max(math.comb(size, 2), 1))


def quantile(at: tuple[float, float], asked: float, rate: float) -> float:
  """The quantile at a rate below the one that was asked for.

  at: the quantiles at `asked` and STEP times that. With F(x) ~ x^theta
  between them, which some images that prompts share (pairs at distance 0,
  fewer than `asked`) do not change,

    x(rate) = at_0 (rate / asked)^(1 / theta),
    theta = log STEP / log(at_1 / at_0)
  """
  low, high = at
  if rate >= asked or low <= 0:
    return low
  return low * (rate / asked) ** (math.log(high / low) / math.log(STEP))


def across(
  between: Float[np.ndarray, "n n"],
  prompts: Int[np.ndarray, " n"],
  *,
  asked: float,
  rate: float,
  seed: int,
  bins: Float[np.ndarray, " e"],
) -> Across:
  """The quantile at `rate` of the distances of pairs of different prompts.

  between: all distances of some images; prompts: of each; asked: the rate
  that is looked up, `rate` is extrapolated from it. Pairs share images, and
  images a prompt: prompts are resampled for the interval, in PARTS. Raises
  ValueError where there is no pair.
  """
  i, j = np.triu_indices(len(between), 1)
  other = prompts[i] != prompts[j]
  i, j = i[other], j[other]
  if not len(i):
    raise ValueError(
      "there are no pairs of different prompts to calibrate the edge on: give "
      "prompts.edge (studies of large images took 0.1 to 0.15)"
    )
  values = between[i, j]
  rates = [asked, min(STEP * asked, 0.5)]
  names, number = np.unique(prompts, return_inverse=True)
  rng = np.random.default_rng(seed)
  parts = min(PARTS, len(names))
  part = rng.permutation(len(names))[number] % parts
  fine = np.minimum((values * FINE).astype(np.int64), FINE - 1)
  cell = (part[i] * parts + part[j]) * FINE + fine
  counts = np.bincount(cell, minlength=parts * parts * FINE)
  drawn = _resampled(counts.reshape(parts, parts, FINE), rates, rng)
  ends = [quantile(at, asked, rate) for at in drawn]
  low, high = np.quantile(ends, ENDS) if ends else (0.0, 1.0)
  at = np.quantile(values, rates, method="inverted_cdf")
  value = quantile((float(at[0]), float(at[1])), asked, rate)
  return Across(
    value=value,
    interval=(min(float(low), value), max(float(high), value)),
    rate=float(rate),
    pairs=len(values),
    images=len(between),
    prompts=len(names),
    histogram=np.histogram(values, bins)[0].astype(np.int64),
  )


def _resampled(
  counts: Int[np.ndarray, "g g f"], rates: list[float], rng: np.random.Generator
) -> list[tuple[float, float]]:
  """Both quantiles when the parts are drawn again."""
  parts = len(counts)
  weight = rng.multinomial(parts, np.full(parts, 1 / parts), DRAWS)
  pairs = (weight[:, :, None] * weight[:, None]).reshape(DRAWS, -1)
  drawn = pairs.astype(np.float64) @ counts.reshape(parts**2, FINE)
  below = np.cumsum(drawn, axis=1)
  found = []
  for row in below[below[:, -1] > 0]:
    first = np.searchsorted(row, np.array(rates) * row[-1])
    low, high = (np.minimum(first, FINE - 1) + 0.5) / FINE
    found.append((float(low), float(high)))
  return found


def choose(
  top: Across,
  tightest: Float[np.ndarray, " p"],
  unsuspected: Float[np.ndarray, " u"] | None,
  *,
  rate: float,
  seed: int,
) -> Edge:
  """The edge.

  top: the rule `across`; tightest: of all prompts with enough images;
  unsuspected: of those that somebody named, or None; rate: of ordinary
  prompts that may be flagged. Raises ValueError where unsuspected prompts
  are none.
  """
  if unsuspected is not None:
    return _unsuspected(top.value, unsuspected, rate, seed)
  value, count, free = ordinary(tightest, top.value, rate)
  found = count, free
  if value == top.value:  # too few ordinary prompts, or all beyond the bound
    return Edge(value, "across", top.rate, top.interval, top.prompts, found)
  rng = np.random.default_rng(seed)
  drawn = [
    ordinary(rng.choice(tightest, len(tightest)), top.value, rate)[0]
    for _ in range(RESAMPLES)
  ]
  low, high = (float(q) for q in np.quantile(drawn, ENDS))
  ends = min(low, value), max(high, value)
  return Edge(value, "ordinary", float(rate), ends, count, found)


def ordinary(
  tightest: Float[np.ndarray, " p"], top: float, rate: float
) -> tuple[float, int, float | None]:
  """(edge, ordinary prompts beyond it, what they alone say); at most `top`."""
  z = float(scipy.stats.norm.isf(rate))
  edge, free = top, None
  x = np.log(np.maximum(tightest[np.isfinite(tightest)], 1e-12))
  while True:
    beyond = x[x > math.log(max(edge, 1e-12))]
    if len(beyond) < ORDINARY:
      return edge, len(beyond), free
    middle = np.median(beyond)
    above = beyond[beyond >= middle]
    sigma = math.sqrt(np.mean((above - middle) ** 2))
    free = math.exp(middle - z * sigma)
    if free >= edge:
      return edge, len(beyond), free
    edge = free


def _unsuspected(
  top: float, values: Float[np.ndarray, " u"], rate: float, seed: int
) -> Edge:
  alike = int(np.count_nonzero(values == 0))
  if alike > rate * len(values):
    raise ValueError(
      f"{alike} of {len(values)} unsuspected prompts give identical images "
      "again and again: take them off prompts.unsuspected"
    )
  found = stats.calibrate(values, rate, seed, cap=top)
  return Edge(
    found.delta, "unsuspected", found.rate, found.interval, found.searched
  )


def split(
  prompts: Sequence[int], seed: int
) -> tuple[Int[np.ndarray, " u"], Int[np.ndarray, " v"]]:
  """Unsuspected prompts in two: to calibrate on (the larger), to report on."""
  order = np.random.default_rng(seed).permutation(np.sort(prompts))
  half = (len(order) + 1) // 2
  return np.sort(order[:half]), np.sort(order[half:])

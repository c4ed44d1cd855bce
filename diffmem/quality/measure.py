# SPDX-License-Identifier: Apache-2.0
"""Two sets of vectors -> every number of quality, with intervals over images.

Intervals are those of `stats.jackknife`: both sets lose the same share of
their images in turn. Numbers compare at equal numbers of images only.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffmem.arrays import Float
from diffmem.quality.frechet import frechet, too_few
from diffmem.quality.manifolds import density_coverage, precision_recall
from diffmem.quality.vectors import check
from diffmem.stats import clopper_pearson, jackknife

SHARES = ("precision", "recall", "coverage")


def measure(
  real: Float[np.ndarray, "m d"],
  made: Float[np.ndarray, "n e"],
  *,
  neighbours: Mapping[str, int] | None,
  groups: int = 20,
  seed: int = 0,
) -> dict[str, Any]:
  """{"frechet": [value, low, high], "precision": [..], "recall": [..], ..}.

  "se" and "bias" hold those of each number (`stats.jackknife`). With too few
  images for the dimensions "frechet" is None, and "frechet_missing" says why.

  Args:
    real, made: the sets.
    neighbours: {"precision": k, "coverage": k}, of both numbers of each kind;
      None leaves these out, and the Frechet distance is all.
    groups: of the jackknife.
    seed: of these groups.

  Raises:
    ValueError: NaN, other dimensions, too few images.
  """
  real, made = check("real", real), check("made", made)
  names = ["precision", "recall", "density", "coverage"] if neighbours else []
  least = min(len(real), len(made))
  # Without one group, too, there must be more images than dimensions.
  reason = too_few(least - -(-least // groups), real.shape[1])
  if reason is None:
    names.insert(0, "frechet")

  def numbers(real, made):
    found = [] if reason else [frechet(real, made)]
    if neighbours is not None:
      found += precision_recall(real, made, neighbours["precision"])
      found += density_coverage(real, made, neighbours["coverage"])
    return found

  estimates = []
  if names:
    estimates = jackknife(numbers, [real, made], groups=groups, seed=seed)
  found: dict[str, Any] = {"frechet": None}
  for name, estimate in zip(names, estimates, strict=True):
    most = 1.0 if name in SHARES else np.inf
    found[name] = estimate.ends(0.0, most)
    if name in SHARES and estimate.value in (0.0, 1.0):
      count = len(made) if name == "precision" else len(real)
      exact = clopper_pearson(round(estimate.value * count), count)
      found[name] = [estimate.value, *exact]
  found["se"] = dict(zip(names, (e.se for e in estimates), strict=True))
  found["bias"] = dict(zip(names, (e.bias for e in estimates), strict=True))
  if reason is not None:
    found["frechet_missing"] = reason
  return found


def losses(
  members: Float[np.ndarray, "n s"],
  held_out: Float[np.ndarray, "m s"] | None,
  times: Any,
  *,
  groups: int = 20,
  seed: int = 0,
) -> dict[str, Any]:
  """Denoising losses of `losses.per_image`, as means with intervals.

  "gap" is held-out less members: how much better what was seen is denoised.
  """
  sets = [members] if held_out is None else [members, held_out]
  for name, values in zip(("members", "held_out"), sets, strict=False):
    check(f"losses of {name}", values)

  def numbers(*sets):
    means = [s.mean(axis=0) for s in sets]
    rows = [*means, means[1] - means[0]] if len(means) == 2 else means
    return np.concatenate([[row.mean() for row in rows], *rows]).tolist()

  found = [e.ends() for e in jackknife(numbers, sets, groups=groups, seed=seed)]
  names = ("members", "held_out", "gap")[: 1 if held_out is None else 3]
  by_time = np.reshape(found[len(names) :], (len(names), len(times), 3))
  return {
    **{name: found[i] for i, name in enumerate(names)},
    "images": dict(zip(names, map(len, sets), strict=False)),
    "by_time": [
      {"t": int(t)} | {n: by_time[i, s].tolist() for i, n in enumerate(names)}
      for s, t in enumerate(times)
    ],
  }

# SPDX-License-Identifier: Apache-2.0
"""Exposure: how well a model knows canaries that were put into its training.

With L the model's loss and R canaries of the same kind that were never in
training,

  exposure(c) = log2 |R| - log2 rank(c),
  rank(c) = 1 + |{r in R: L(r) <= L(c)}|, at most |R|

up to log2 |R| (10 for 1,024) where c has the lowest loss. Of a canary that
means nothing to the model P[exposure >= x] = 2^-x, up to 1 / |R|: mean 1.44.
Canaries that were inserted 0 times are the control.

Carlini et al., "The Secret Sharer", 2019; for diffusion models "Extracting
Training Data from Diffusion Models", 2023, section 7.3 (noise canaries).
"""

import os
from typing import Any

import numpy as np
import scipy.stats

from diffmem.arrays import AnyArray, Float
from diffmem.data import canaries
from diffmem.data.dataset import Dataset
from diffmem.data.splits import Split
from diffmem.denoiser import Denoiser
from diffmem.membership import loss, signals


def exposure(
  losses: Float[AnyArray, " k"], reference: Float[AnyArray, " r"]
) -> Float[np.ndarray, " k"]:
  """Exposure of canaries with these losses among never-inserted ones.

  Raises:
    ValueError: nothing to rank among, or losses that are not finite.
  """
  losses, reference = np.asarray(losses), np.asarray(reference)
  both = np.concatenate([losses, reference])
  if not len(reference) or not np.isfinite(both).all():
    raise ValueError(
      f"{len(reference)} reference losses, {int((~np.isfinite(both)).sum())} "
      "losses are NaN or infinite: expected one or more, all finite"
    )
  size = len(reference)
  rank = 1 + np.searchsorted(np.sort(reference), losses, side="right")
  return np.log2(size) - np.log2(np.minimum(rank, size))


def measure(
  denoiser: Denoiser,
  dataset: Dataset,
  split: Split,
  *,
  t: int,
  draws: int,
  seed: int,
  batch: int = 512,
  path: str | os.PathLike | None = None,
  progress: bool = True,
) -> dict[str, Any] | None:
  """Exposure of a split's canaries by kind and copies; None without canaries.

  Args:
    denoiser: the model that was trained with them.
    dataset, split: what it was trained on.
    t, draws, seed: of the losses, as in the loss attack.
    batch, path, progress: of `signals.compute`.

  Returns:
    {kind: {"t", "reference", "most", "by_copies": {copies: `summary`}}}.

  Raises:
    ValueError: the canaries do not fit the model.
    FloatingPointError: a loss is not finite; names the canaries.
  """
  found = canaries.make(dataset, split)
  if found is None:
    return None
  canaries.check(split, denoiser.num_classes)
  values = signals.compute(
    denoiser,
    found.images,
    loss.SIGNAL,
    t=(t,),
    draws=draws,
    seed=seed,
    augment=("identity",),
    batch=batch,
    cond=found.labels if denoiser.num_classes is not None else None,
    ids=found.ids,
    path=path,
    progress=progress,
  )
  mean = np.asarray(values[:], np.float64).mean(axis=(1, 2, 3))
  results = {}
  for kind in canaries.KINDS:
    of_kind = found.kinds == kind
    if not of_kind.any():
      continue
    inserted = of_kind & ~found.reference
    reference = mean[of_kind & found.reference]
    exposures, copies = exposure(mean[inserted], reference), found.copies
    results[kind] = {
      "t": t,
      "reference": len(reference),
      "most": float(np.log2(len(reference))),
      "by_copies": {
        str(c): summary(exposures[copies[inserted] == c], len(reference))
        for c in np.unique(copies[inserted])
      },
    }
  return results


def summary(
  exposures: Float[np.ndarray, " k"], reference: int
) -> dict[str, Any]:
  """What is reported of canaries inserted equally often.

  "p" is how likely canaries never inserted come out so exposed together:
  Fisher's combination of each one's p = rank / (|R| + 1).
  """
  most = np.log2(reference)
  rank = np.round(2 ** (most - exposures))
  p: Any = scipy.stats.combine_pvalues(np.minimum(rank / (reference + 1), 1.0))
  return {
    "canaries": len(exposures),
    "mean": float(exposures.mean()),
    "at_most": int(np.sum(exposures >= most - 1e-9)),
    "values": [float(e) for e in np.sort(exposures)[::-1]],
    "p": float(p.pvalue),
  }

# SPDX-License-Identifier: Apache-2.0
"""PFAMI: a member sits at a peak of the model's probability.

  L_s(x)   = the denoising loss of x at time s (see `loss`), mean over draws
  change   = (L_s(x'_k) - L_s(x)) / L_s(x)
  score_t  = mean over s in linspace(0, t, points), and over k, of the change

x'_k is x cropped about its centre to a share linspace(0.95, 0.70, 10)_k of
its sides and resized back, bilinearly. x and all x'_k meet the same noise.
t = 450 with 10 points is the paper's 0, 50, ..., 450; the authors' program
scores by one crop alone (`crop=5`, or 8, by version), here their mean is
the default. `whole_pixels` crops to whole pixels, as they do: at 8 x 8 only
three of the ten crops then differ. `change="absolute"` leaves out the
division (as in the program of Rao et al. 2025).

Fu et al., "A Probabilistic Fluctuation based Membership Inference Attack for
Diffusion Models", 2023, arXiv:2308.12143.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float
from diffmem.membership import signals
from diffmem.membership.loss import denoising
from diffmem.membership.protocol import Attack

CHANGES = ("relative", "absolute")
_SMALLEST = 1e-30  # a loss of 0 is divided by this


def times(t: int, points: int) -> list[int]:
  """The times that the score of t averages over, rounded to an index."""
  return [math.floor(s + 0.5) for s in np.linspace(0, t, points)]


def crop_weights(
  size: int, share: float, whole_pixels: bool
) -> Float[np.ndarray, "size size"]:
  """Row i: how output pixel i reads a line of pixels, cropped and resized."""
  width, start = size * share, size * (1 - share) / 2
  first, last = 0.0, size - 1.0
  if whole_pixels:
    width = max(1, int(size * share))
    start = round((size - width) / 2)
    first, last = start, start + width - 1.0
  at = (np.arange(size) + 0.5) * width / size - 0.5 + start
  at = np.clip(at, first, last)
  low = np.minimum(np.floor(at), size - 2).astype(int) if size > 1 else None
  weights = np.zeros((size, size), np.float32)
  if low is None:
    weights[:] = 1
    return weights
  rows = np.arange(size)
  weights[rows, low] = 1 - (at - low)
  weights[rows, low + 1] = at - low
  return weights


@functools.partial(jax.jit, static_argnums=(1, 2))
def cropped(
  images: Float[AnyArray, "b h w c"], share: float, whole_pixels: bool
) -> Float[jax.Array, "b h w c"]:
  """Images cropped about their centre and resized back."""
  _, h, w, _ = images.shape
  down, across = (crop_weights(n, share, whole_pixels) for n in (h, w))
  return jnp.einsum(
    "ih,jw,bhwc->bijc",
    down,
    across,
    images,
    precision=jax.lax.Precision.HIGHEST,
  )


def _block(
  queries,
  images,
  cond,
  *,
  t,
  points,
  crops,
  weakest,
  strongest,
  draws,
  seed,
  whole_pixels,
):
  shares = np.linspace(weakest, strongest, crops).tolist()
  views = [images, *(cropped(images, r, whole_pixels) for r in shares)]
  views = [queries.encode(view) for view in views]
  found = {
    s: [
      queries.call(
        denoising, x0, queries.number(s), queries.noise(seed, s, j), cond
      )
      for j in range(draws)
      for x0 in views
    ]
    for s in sorted({s for end in t for s in times(end, points)})
  }
  return [leaf for end in t for s in times(end, points) for leaf in found[s]]


def _shape(
  denoiser, *, t, points, crops, weakest, strongest, draws, seed, whole_pixels
):
  signals.at_least_one(points=points, crops=crops, draws=draws)
  if not 0 < strongest <= weakest <= 1:
    raise ValueError(
      f"crops from weakest = {weakest} to strongest = {strongest}: expected "
      "shares of the side, 0 < strongest <= weakest <= 1"
    )
  return (len(t), points, draws, 1 + crops)


SIGNAL = signals.Signal("fluctuations", _block, _shape)


def scores(
  losses: Float[np.ndarray, "n t points draws views"],
  *,
  crop: str | int = "mean",
  change: str = "relative",
) -> Float[np.ndarray, "n t"]:
  """Scores from the losses of x (view 0) and of its crops.

  Args:
    losses: of SIGNAL.
    crop: the number of one crop, or "mean" over all.
    change: one of CHANGES.
  """
  if change not in CHANGES:
    raise ValueError(f"change = {change!r}: choose one of {', '.join(CHANGES)}")
  each = losses.mean(axis=3, dtype=np.float64)
  clean, views = each[..., :1], each[..., 1:]
  moved = views - clean
  if change == "relative":
    moved = moved / np.maximum(clean, _SMALLEST)
  if crop != "mean":
    count = views.shape[-1]
    if not isinstance(crop, int) or not 0 <= crop < count:
      raise ValueError(f"crop = {crop!r}: give 'mean', or 0 to {count - 1}")
    moved = moved[..., crop : crop + 1]
  return moved.mean(axis=(2, 3))


ATTACK = Attack(
  name="pfami",
  source="Fu et al. 2023",
  signal=SIGNAL,
  scores=scores,
  defaults={
    "points": 10,
    "crops": 10,
    "weakest": 0.95,
    "strongest": 0.70,
    "draws": 1,
    "seed": 0,
    "whole_pixels": False,
    "crop": "mean",
    "change": "relative",
  },
  queries=lambda *, t, points, crops, draws, **_: (
    len({s for end in t for s in times(end, points)}) * draws * (1 + crops)
  ),
)

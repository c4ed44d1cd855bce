# SPDX-License-Identifier: Apache-2.0
"""One step tells: a memorized prompt is certain of its image at once.

Both take one guided step from pure noise x_T, T the last time, to

  x0 = (x_T - s eps) / a,   eps = eps_null + guidance (eps_c - eps_null)

  confidence  mean over pixels and draws of eps^2: how far the step goes. In
              the paper it is mean (z - x0)^2 of z = x_T / a, the noise at a
              sigma of s / a, which is (s / a)^2 eps^2: the same but for a
              factor that all prompts share. White-box.
  edges       the share of pixels where more than half of the draws have an
              edge: what is memorized has sharp edges in the same places, the
              rest is a blur. An edge is where the Sobel magnitude (pixels in
              [0, 1], summed over three channels; grey counts thrice) exceeds
              `threshold`. Needs generations alone: black-box.

Higher means memorized. Webster, "A Reproducible Extraction of Training Images
from Diffusion Models", 2023, arXiv:2305.08694: one seed for the first, four
for the second, images brought to 256 pixels, threshold 1.5, guidance 7.5.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float
from diffmem.denoiser import conditions
from diffmem.diffusion import guidance as guiding
from diffmem.diffusion import process
from diffmem.membership import signals
from diffmem.membership.prompt_scores import Detector, last


def _guided(denoiser, params, x, t, cond, null, scale):
  """(x, times, eps) at one time, of every condition."""
  x = jnp.broadcast_to(x, (conditions.count(cond), *denoiser.shape))
  times = jnp.full(len(x), t, jnp.int32)
  predict = guiding.guided(denoiser.predict, null, scale)
  return x, times, predict(params, x, times, cond)[0]


def _squares(denoiser, params, x, t, cond, null, *, scale):
  _, _, eps = _guided(denoiser, params, x, t, cond, null, scale)
  return (eps**2).mean((1, 2, 3))


def _clean(denoiser, params, x, t, cond, null, *, scale):
  x, times, eps = _guided(denoiser, params, x, t, cond, null, scale)
  a, s = process.levels(process.per_image(times), denoiser.schedule.alpha_bar)
  return (x - s * eps) / a


def _calls(queries, function, cond, *, t, draws, guidance, seed):
  null = conditions.null(queries.denoiser)
  return [
    queries.call(
      function,
      queries.noise(seed, t[0], j)[None],
      queries.number(t[0]),
      cond,
      null,
      scale=guidance,
    )
    for j in range(draws)
  ]


def _confidence(queries, images, cond, *, t, draws, guidance, seed):
  del images
  return _calls(
    queries, _squares, cond, t=t, draws=draws, guidance=guidance, seed=seed
  )


def _confidence_shape(denoiser, *, t, draws, guidance, seed):
  signals.at_least_one(draws=draws)
  return (len(t), draws)


def _edges(queries, images, cond, *, t, draws, guidance, threshold, side, seed):
  del images
  made = _calls(
    queries, _clean, cond, t=t, draws=draws, guidance=guidance, seed=seed
  )
  votes = [edges(queries.decode(x), threshold, side) for x in made]
  return [(sum(votes) > draws / 2).mean((1, 2))]


def _edges_shape(denoiser, *, t, draws, guidance, threshold, side, seed):
  signals.at_least_one(draws=draws)
  if not threshold > 0:
    raise ValueError(f"threshold = {threshold}: expected a number above 0")
  return (len(t),)


def edges(
  images: Float[AnyArray, "b h w c"], threshold: float, side: int | None
) -> Float[jax.Array, "b height width"]:
  """1 where an image in [-1, 1] has an edge, else 0.

  With `side` images are brought to side x side first (Lanczos).
  """
  x = (jnp.clip(jnp.asarray(images), -1.0, 1.0) + 1.0) / 2.0
  b, _, _, c = x.shape
  if side is not None:
    x = jax.image.resize(x, (b, side, side, c), "lanczos3")
  total = sobel(x).sum(-1) * (3.0 / c)
  return (total > threshold).astype(jnp.float32)


def sobel(
  images: Float[AnyArray, "b h w c"],
) -> Float[jax.Array, "b h w c"]:
  """Sobel magnitude, mirrored at the borders.

  Like scipy.ndimage.sobel of an image [h w c] it smooths across channels too;
  the paper's threshold counts on it.
  """
  x = jnp.pad(
    jnp.asarray(images), ((0, 0), (1, 1), (1, 1), (1, 1)), mode="symmetric"
  )

  def smooth(x: Any, axis: int) -> Any:
    low, middle, high = _shifted(x, axis)
    return low + 2.0 * middle + high

  def slope(x: Any, axis: int) -> Any:
    low, _, high = _shifted(x, axis)
    return high - low

  x = smooth(x, 3)
  return jnp.hypot(smooth(slope(x, 1), 2), smooth(slope(x, 2), 1))


def _shifted(x: Any, axis: int) -> list[Any]:
  n = x.shape[axis] - 2
  return [jax.lax.slice_in_dim(x, i, n + i, axis=axis) for i in range(3)]


def _mean(values: Float[np.ndarray, "p ..."]) -> Float[np.ndarray, " p"]:
  return values.reshape(len(values), -1).mean(axis=1, dtype=np.float64)


CONFIDENCE = Detector(
  name="confidence",
  source="Webster 2023, white-box",
  signal=signals.Signal("confidences", _confidence, _confidence_shape),
  times=last,
  scores=_mean,
  defaults={"draws": 1, "guidance": 7.5},
  queries=lambda *, draws, **_: 2 * draws,
)
EDGES = Detector(
  name="edges",
  source="Webster 2023, black-box",
  signal=signals.Signal("edges", _edges, _edges_shape),
  times=last,
  scores=_mean,
  defaults={
    "draws": 4,
    "guidance": 7.5,
    "threshold": 1.5,
    "side": None,  # of the images that edges are looked for in; None: as is
  },
  queries=lambda *, draws, **_: 2 * draws,
)

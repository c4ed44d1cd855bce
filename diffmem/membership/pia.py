# SPDX-License-Identifier: Apache-2.0
"""PIA: at a member the network's own noise is found again.

  eps0    = c eps(x0, 0)
  x_t     = sqrt(ab_t) x0 + sqrt(1 - ab_t) eps0
  score_t = -sum over pixels of |eps0 - eps(x_t, t)|^p,  p = 4, no root

PIA has c = 1. PIAN makes eps0 as large as noise: c = m / mean |eps0|, with

  consistent  m = sqrt(2 / pi), the mean of |N(0, 1)|: what the authors'
              program does, and what their text argues for
  printed     m = sqrt(pi / 2), as equation 10 is printed: pi / 2 larger

Two network calls for one t, one more for each further t. Kong et al., "An
Efficient Membership Inference Attack for the Diffusion Model by Proximal
Initialization", ICLR 2024.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float
from diffmem.diffusion import process
from diffmem.membership import signals
from diffmem.membership.protocol import Attack

# The mean of |eps0| after normalising; None leaves it as it is.
NORMALISE = {
  "none": None,
  "consistent": math.sqrt(2 / math.pi),
  "printed": math.sqrt(math.pi / 2),
}


@jax.jit
def _rescaled(
  eps: Float[AnyArray, "b h w c"], mean: float | Float[AnyArray, ""]
) -> Float[jax.Array, "b h w c"]:
  size = jnp.mean(jnp.abs(eps), axis=(1, 2, 3), keepdims=True)
  return jnp.multiply(eps, mean / size)


def _distance(denoiser, params, x0, eps0, t, cond, *, p):
  t = jnp.full(len(x0), t, jnp.int32)
  x_t = process.add_noise(x0, eps0, t, denoiser.schedule.alpha_bar)
  eps = denoiser.predict(params, x_t, t, cond)[0]
  return jnp.sum(jnp.abs(eps0 - eps) ** p, axis=(1, 2, 3))


def _block(queries, images, cond, *, t, p, normalise):
  x0 = queries.encode(images)
  eps0 = queries.eps(x0, 0, cond)
  mean = NORMALISE[normalise]
  if mean is not None:
    eps0 = _rescaled(eps0, mean)
  return [
    queries.call(_distance, x0, eps0, queries.number(s), cond, p=p) for s in t
  ]


def _shape(denoiser, *, t, p, normalise):
  if not p > 0:
    raise ValueError(f"p = {p}, expected a positive power")
  if normalise not in NORMALISE:
    raise ValueError(
      f"normalise = {normalise!r}: choose one of {', '.join(NORMALISE)}"
    )
  return (len(t),)


SIGNAL = signals.Signal("proximal_errors", _block, _shape)


def scores(errors: Float[np.ndarray, "n t"]) -> Float[np.ndarray, "n t"]:
  """Scores from the errors; higher means member."""
  return -errors.astype(np.float64)


ATTACK = Attack(
  name="pia",
  source="Kong et al. 2024",
  signal=SIGNAL,
  scores=scores,
  defaults={"p": 4, "normalise": "none"},
  queries=lambda *, t, **_: 1 + len(t),
)
NORMALISED = dataclasses.replace(
  ATTACK, name="pian", defaults={"p": 4, "normalise": "consistent"}
)

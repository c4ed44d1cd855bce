# SPDX-License-Identifier: Apache-2.0
"""SimA: of a clean member the network predicts hardly any noise.

  score_t = -sum over pixels of |eps(x0, t)|^p,  p = 4

x0 goes in as it is: no noise, and no factor sqrt(ab_t). One network call for
each t, no randomness. Where the data near x0 average to m, eps is about
(x0 - sqrt(ab_t) m) / sqrt(1 - ab_t), small only if m is x0 and t is small.
Rao et al. 2025, arXiv:2509.25003.
"""

import jax.numpy as jnp
import numpy as np

from diffmem.arrays import Float
from diffmem.membership import signals
from diffmem.membership.protocol import Attack


def _size(denoiser, params, x0, t, cond, *, p):
  t = jnp.full(len(x0), t, jnp.int32)
  eps = denoiser.predict(params, x0, t, cond)[0]
  return jnp.sum(jnp.abs(eps) ** p, axis=(1, 2, 3))


def _block(queries, images, cond, *, t, p):
  x0 = queries.encode(images)
  return [queries.call(_size, x0, queries.number(s), cond, p=p) for s in t]


def _shape(denoiser, *, t, p):
  if not p > 0:
    raise ValueError(f"p = {p}, expected a positive power")
  return (len(t),)


SIGNAL = signals.Signal("clean_scores", _block, _shape)


def scores(sizes: Float[np.ndarray, "n t"]) -> Float[np.ndarray, "n t"]:
  """Scores from the sizes of eps; higher means member."""
  return -sizes.astype(np.float64)


ATTACK = Attack(
  name="sima",
  source="Rao et al. 2025",
  signal=SIGNAL,
  scores=scores,
  defaults={"p": 4},
  queries=lambda *, t, **_: len(t),
)

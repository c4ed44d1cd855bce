# SPDX-License-Identifier: Apache-2.0
"""Classifier-free guidance (Ho & Salimans 2022).

  eps = eps_null + scale (eps_cond - eps_null)

scale 1 is the plain conditional model, 0 the unconditional one. (The paper's
w is scale - 1.) Both predictions come from one network call on 2b examples.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffmem.arrays import AnyArray, Float

Predict = Callable[..., tuple[Any, Any]]


def classifier_free(
  eps_cond: Float[AnyArray, "b h w c"],
  eps_null: Float[AnyArray, "b h w c"],
  scale: float,
) -> Float[jax.Array, "b h w c"]:
  """The guided prediction from the two plain ones."""
  return jnp.asarray(eps_null + scale * (eps_cond - eps_null))


def guided(predict: Predict, null_cond: Any, scale: float) -> Predict:
  """predict(params, x_t, t, cond) -> (eps, fraction), with guidance.

  null_cond is one condition without the batch axis (a class number, an
  embedding, or a tree of them). The variance fraction is the conditional one.
  """

  def predict_guided(params, x_t, t, cond):
    def both(leaf, null):
      null = jnp.broadcast_to(jnp.asarray(null, leaf.dtype), leaf.shape)
      return jnp.concatenate([leaf, null])

    eps, fraction = predict(
      params,
      jnp.concatenate([x_t, x_t]),
      jnp.concatenate([t, t]),
      jax.tree.map(both, jax.tree.map(jnp.asarray, cond), null_cond),
    )
    b = len(x_t)
    eps = classifier_free(eps[:b], eps[b:], scale)
    return eps, None if fraction is None else fraction[:b]

  return predict_guided

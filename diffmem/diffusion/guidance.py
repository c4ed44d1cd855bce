# SPDX-License-Identifier: Apache-2.0
"""Guidance: classifier-free, and by the gradient of a classifier.

Classifier-free (Ho & Salimans 2022), both predictions from one network call on
2b examples; scale 1 is the plain conditional model, 0 the unconditional one
(the paper's w is scale - 1):

  eps = eps_null + scale (eps_cond - eps_null)

By a classifier p(y | x_t, t) of noised images (Dhariwal & Nichol 2021,
algorithm 2), s_t = sqrt(1 - ab_t); scale 0 is the plain model:

  eps = eps(x_t, t) - s_t scale grad_x log p(y | x_t, t)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffmem.arrays import AnyArray, Float, Int

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
  embedding, or a tree of them). Where conditions are a dict, what null_cond
  leaves out is the same in both predictions: the image that super-resolution
  enlarges. The variance fraction is the conditional one.
  """

  def predict_guided(params, x_t, t, cond):
    eps, without, fraction = both(predict, params, x_t, t, cond, null_cond)
    return classifier_free(eps, without, scale), fraction

  return predict_guided


def classifier_gradient(
  classify: Callable[..., Any],
  params: Any,
  x_t: Float[AnyArray, "b h w c"],
  t: Int[AnyArray, " b"],
  y: Int[AnyArray, " b"],
) -> Float[jax.Array, "b h w c"]:
  """grad_x log p(y | x_t, t) of each example, by one backward pass.

  classify(params, x_t, t) -> logits [b classes]; each row of the logits must
  depend on its own example alone.
  """

  def total(x):
    log_p = jax.nn.log_softmax(classify(params, x, t), axis=-1)
    return jnp.take_along_axis(log_p, y[:, None], axis=1).sum()

  return jax.grad(total)(jnp.asarray(x_t))


def classifier_guided(
  eps: Float[AnyArray, "b h w c"],
  gradient: Float[AnyArray, "b h w c"],
  noise: Float[AnyArray, "b 1 1 1"],
  scale: Float[AnyArray, " b"],
) -> Float[jax.Array, "b h w c"]:
  """The guided prediction; noise is s_t, each example has its own scale."""
  return jnp.asarray(eps - noise * scale[:, None, None, None] * gradient)


def both(
  predict: Predict,
  params: Any,
  x_t: Float[AnyArray, "b h w c"],
  t: Int[AnyArray, " b"],
  cond: Any,
  null_cond: Any,
) -> tuple[Any, Any, Any]:
  """(eps with cond, eps with the null condition, fraction with cond).

  One network call on 2b examples, the two of each image side by side: where
  images are divided over devices, so are pairs, and nothing is exchanged.
  """
  eps, fraction = predict(
    params,
    _paired(x_t, x_t),
    _paired(t, t),
    _doubled(jax.tree.map(jnp.asarray, cond), null_cond),
  )
  return eps[::2], eps[1::2], None if fraction is None else fraction[::2]


def _paired(one: Any, other: Any) -> jax.Array:
  """Rows in turn: of one, of the other."""
  pairs = jnp.stack([one, other], axis=1)
  return pairs.reshape(-1, *pairs.shape[2:])


def _doubled(cond: Any, null_cond: Any) -> Any:
  """Each condition, and after it the null condition."""

  def beside(leaf, null):
    null = jnp.broadcast_to(jnp.asarray(null, leaf.dtype), leaf.shape)
    return _paired(leaf, null)

  if not (isinstance(cond, dict) and isinstance(null_cond, dict)):
    return jax.tree.map(beside, cond, null_cond)
  return {
    name: jax.tree.map(beside, value, null_cond[name])
    if name in null_cond
    else jax.tree.map(lambda leaf: _paired(leaf, leaf), value)
    for name, value in cond.items()
  }

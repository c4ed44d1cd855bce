# SPDX-License-Identifier: Apache-2.0
"""A prompt's embedding, changed until it no longer pulls.

  d = || eps(x_T, T, c) - eps(x_T, T, null) ||_2

is high for memorized prompts from the first step on. Its gradient by c leads
to a prompt close by with a lower d: AdamW, at most `steps` of them, none where
d is at most `target`. x_T is the image's own noise, so that the result is a
function of its id.

Wen et al., ICLR 2024, section 5: lr 0.05, 10 steps, target 3 for latents of
4 x 64 x 64.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffmem.arrays import AnyArray, Float
from diffmem.denoiser import Denoiser, conditions


def optimizer(
  denoiser: Denoiser, *, t: int, steps: int, lr: float, target: float
) -> Callable[..., Any]:
  """fn(params, x_t, cond) -> cond, its float arrays changed.

  Args:
    denoiser: a conditional model that JAX can trace.
    t: of x_t, the first time of the chain.
    steps: at most so many.
    lr: of AdamW, in the unit of the embedding.
    target: examples whose magnitude is at most this are left alone.

  Raises:
    ValueError: options that cannot be, or a model that cannot be traced.
  """
  if steps < 1 or not lr > 0 or not target >= 0:
    raise ValueError(
      f"steps={steps}, lr={lr}, target={target}: expected at least 1, above "
      "0, and 0 or more"
    )
  if not denoiser.traceable:
    raise ValueError("prompt optimization needs a model that JAX can trace")
  denoiser.require("null_cond", by="prompt optimization")
  null = conditions.null(denoiser)
  if not any(leaf.dtype.kind == "f" for leaf in jax.tree.leaves(null)):
    raise ValueError("prompt optimization needs embeddings, not class labels")
  adam = optax.adamw(lr, weight_decay=0.01)

  def magnitude(params, x, times, cond, without):
    eps, _ = denoiser.predict(params, x, times, cond)
    return jnp.sqrt(((eps - without) ** 2).sum((1, 2, 3)) + 1e-12)

  def optimize(params: Any, x: Float[AnyArray, "b h w c"], cond: Any) -> Any:
    times = jnp.full(len(x), t, jnp.int32)
    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, cond))
    moves = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    without, _ = denoiser.predict(
      params, x, times, conditions.expand(null, cond)
    )

    def rebuilt(moved):
      rest = iter(moved)
      return tree.unflatten(
        [
          next(rest) if m else leaf
          for m, leaf in zip(moves, leaves, strict=True)
        ]
      )

    def total(moved):
      d = magnitude(params, x, times, rebuilt(moved), without)
      return d.sum(), d

    moved = [leaf for m, leaf in zip(moves, leaves, strict=True) if m]
    state = adam.init(moved)
    for _ in range(steps):  # unrolled: gradients in a loop are slow on CPUs
      gradient, d = jax.grad(total, has_aux=True)(moved)
      change, state = adam.update(gradient, state, moved)
      pulled = d > target
      moved = jax.tree.map(
        lambda leaf, step, pulled=pulled: (
          leaf + jnp.where(_like(pulled, leaf), step, 0.0)
        ),
        moved,
        change,
      )
    return rebuilt(moved)

  return optimize


def _like(condition: Any, leaf: Any) -> Any:
  return condition.reshape(len(condition), *[1] * (leaf.ndim - 1))

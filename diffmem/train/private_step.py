# SPDX-License-Identifier: Apache-2.0
"""A step of DP-SGD (Abadi et al. 2016, arXiv:1607.00133, algorithm 1).

  g_r = grad of loss(x_r, t_r, eps_r),   c_r = g_r min(1, C / |g_r|)
  g   = (sum over r in batch of c_r  +  sigma C N(0, I)) / B

B is the mean size of a Poisson batch, not its own, which is private. t_r and
eps_r follow from (key, step, r), the place of the row in training: a step is
the same for micro-batches of any size, up to rounding. The micro-batches of a
batch are taken one by one by a loop on the host, and their sums added up:
memory is that of one, whatever the batch (in a scan XLA's CPU backend would
be far slower).

Clipping and noise are jax_privacy's.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffmem import keys, mesh
from diffmem.arrays import Bool, Key
from diffmem.models import Model
from diffmem.train import state as states
from diffmem.train import step as steps

Parts = Sequence[dict[str, Any]]  # micro-batches, as PoissonBatches gives them


def create(
  model: Model,
  each: steps.Losses,
  tx: optax.GradientTransformation,
  rate: optax.Schedule,
  *,
  ema: float,
  batch: int,
  clip: float,
) -> Callable[[Any, Parts, Any, float], tuple[Any, dict[str, jax.Array]]]:
  """(state, parts of the batch, key, noise multiplier) -> (state, metrics).

  Compiled twice at its first call: for a part, and for the end of a step.

  Args:
    model: the network; its parameters' shapes are those of the sums.
    each: what is drawn, and the losses of it; see `step.denoising`.
    tx, rate, ema: as in `step.create`.
    batch: B. clip: C.
  """
  whole = mesh.replicated(mesh.data_mesh())
  rows = mesh.sharded(mesh.data_mesh())
  add = steps.in_step(
    jax.jit(
      clipped_sum(each, clip),
      in_shardings=(whole, whole, rows, rows, whole),
      out_shardings=whole,
      donate_argnums=0,
    ),
    "private sum",
  )
  finish = steps.in_step(
    jax.jit(
      noised_update(tx, rate, ema=ema, batch=batch, clip=clip),
      in_shardings=whole,
      out_shardings=whole,
      donate_argnums=0,
    ),
    "private step",
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  zeros = jax.jit(lambda: nothing(shapes), out_shardings=whole)
  stream = jax.jit(lambda key, step: keys.stream(key, "step", step))

  def step(state, parts, key, noise_multiplier):
    now = stream(key, state["step"])
    total = zeros()
    for part in parts:
      part = dict(part)
      real = part.pop("real")
      total = add(total, state["params"], part, real, now)
    return finish(state, total, now, jnp.float32(noise_multiplier))

  return step


def nothing(shapes: Any) -> dict[str, Any]:
  """The sum over no rows."""
  numbers = ("loss", "clipped", "images")
  return {"grads": jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)} | {
    name: jnp.zeros(()) for name in numbers
  }


def clipped_sum(each: steps.Losses, clip: float) -> Callable:
  """(total, params, part, real, key of the step) -> total with the part."""
  import jax_privacy  # seconds to import

  def one(params: Any, example: dict[str, Any], now: Key[jax.Array, ""]):
    """The loss of a single row: every axis of `example` begins with 1."""
    key = keys.stream(now, "row", example["slot"][0])
    drawn = each.draw(example, key)
    return each.of(params, *drawn, keys.stream(key, "dropout"))[0]

  gradients = jax_privacy.clipped_grad(
    one, l2_clip_norm=clip, return_values=True, return_grad_norms=True
  )

  def add(total, params, part, real: Bool[jax.Array, " m"], now):
    with warnings.catch_warnings():
      # jax_privacy 2.0 calls optax by a name that optax 0.2.8 deprecates.
      warnings.filterwarnings("ignore", message="optax.global_norm")
      found, about = gradients(params, part, now, is_padding_example=~real)

    def sum_of(values):
      return jnp.where(real, values, 0.0).sum()

    return {
      "grads": jax.tree.map(jnp.add, total["grads"], found),
      "loss": total["loss"] + sum_of(about.values),
      "clipped": total["clipped"] + sum_of(about.grad_norms > clip),
      "images": total["images"] + real.sum(),
    }

  return add


def noised_update(
  tx: optax.GradientTransformation,
  rate: optax.Schedule,
  *,
  ema: float,
  batch: int,
  clip: float,
) -> Callable:
  """(state, total, key of the step, noise multiplier) -> (state, metrics)."""
  from jax_privacy import noise_addition

  def finish(state, total, now, noise_multiplier):
    noise = noise_addition.gaussian_privatizer(
      stddev=noise_multiplier * clip, prng_key=keys.stream(now, "noise")
    )
    noised, _ = noise.update(total["grads"], noise.init(state["params"]))
    grads = jax.tree.map(lambda g: g / batch, noised)
    updates, opt = tx.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    count = jnp.maximum(total["images"], 1)
    metrics = {
      "loss": total["loss"] / count,
      "grad_norm": optax.tree.norm(grads),
      "clipped": total["clipped"] / count,
      "lr": rate(state["step"]),
      "images": total["images"],
    }
    new = {
      "step": state["step"] + 1,
      "params": params,
      "ema": states.average(state["ema"], params, state["step"], ema),
      "opt": opt,
    }
    return new, metrics

  return finish

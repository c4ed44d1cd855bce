# SPDX-License-Identifier: Apache-2.0
"""One training step: draw t and eps, take the mean loss, move the weights.

  t ~ U{0..T-1},  eps ~ N(0, I),  both functions of (key, step) alone;
  g = grad of mean_b loss(x0_b, t_b, eps_b)

It is jitted once and called once a step: convolution gradients inside a loop
of XLA's CPU backend are far slower.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffmem import arrays, keys, mesh, processes
from diffmem.arrays import AnyArray, Float, Key, UInt8
from diffmem.diffusion import losses
from diffmem.diffusion.schedules import Schedule
from diffmem.models import Model
from diffmem.train import conditions
from diffmem.train import state as states


@dataclasses.dataclass(frozen=True)
class Losses:
  """What is drawn for a batch, and the losses of it.

  Attributes:
    draw: (batch, key) -> (x0, t, eps, cond), all with the batch axis.
    of: (params, x0, t, eps, cond, key of dropout) -> losses [b].
  """

  draw: Callable
  of: Callable


def denoising(
  model: Model,
  schedule: Schedule,
  *,
  prediction: str,
  loss: str,
  label_dropout: float = 0.0,
  levels: tuple[int, int] | None = None,
) -> Losses:
  """The losses of a denoising network.

  Args:
    model: the network; schedule: of the noise.
    prediction: "eps", "x0" or "v"; loss: "mse" or "hybrid".
    label_dropout: share of labels or captions replaced by none, which
      classifier-free guidance needs (Ho & Salimans 2022).
    levels: of noise on the image that super-resolution starts from, first
      and last (excluded); None where the network enlarges none.
  """

  def draw(batch: dict[str, Any], key: Key[jax.Array, ""]):
    x0, t, eps = _draw(batch["image"], key, schedule.steps)
    cond = conditions.draw(
      model,
      batch,
      x0,
      key,
      dropout=label_dropout,
      schedule=schedule,
      levels=levels,
    )
    return x0, t, eps, cond

  def of(params, x0, t, eps, cond, dropout):
    def network(x_t, t, cond):
      return model.apply(params, x_t, t, cond, key=dropout)

    return losses.denoising_loss(
      network,
      x0,
      t,
      eps,
      cond,
      schedule=schedule,
      prediction=prediction,
      loss=loss,
    )

  return Losses(draw, of)


def create(
  model: Model,
  schedule: Schedule,
  tx: optax.GradientTransformation,
  rate: optax.Schedule,
  *,
  ema: float,
  **options: Any,
) -> Callable[[Any, dict, Any], tuple[Any, dict[str, jax.Array]]]:
  """The jitted step: (state, batch, key) -> (state, metrics).

  The state is donated. The key is the root of all noise in one training: an
  argument, so that many trainings share one compiled program.

  Args:
    model, schedule, options: see `denoising`.
    tx: the optimiser; rate: its learning rate by step, for the metrics.
    ema: the decay of the average.
  """
  each = denoising(model, schedule, **options)

  def mean_loss(params, *drawn):
    return each.of(params, *drawn).mean()

  def step(
    state: Any, batch: dict[str, Any], key: Key[jax.Array, ""]
  ) -> tuple[Any, dict]:
    now = keys.stream(key, "step", state["step"])
    drawn = each.draw(batch, now)
    value, grads = jax.value_and_grad(mean_loss)(
      state["params"], *drawn, keys.stream(now, "dropout")
    )
    updates, opt = tx.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    metrics = {
      "loss": value,
      "grad_norm": optax.tree.norm(grads),
      "lr": rate(state["step"]),
      "images": jnp.asarray(len(batch["image"])),
    }
    new = {
      "step": state["step"] + 1,
      "params": params,
      "ema": states.average(state["ema"], params, state["step"], ema),
      "opt": opt,
    }
    return new, metrics

  whole = mesh.replicated(mesh.data_mesh())
  rows = mesh.sharded(mesh.data_mesh())
  jitted = jax.jit(
    step,
    in_shardings=(whole, rows, whole),
    out_shardings=(whole, whole),
    donate_argnums=0,
  )
  return in_step(jitted)


def in_step(jitted: Any, name: str = "step") -> Callable:
  """The same, whose first run begins in all processes at the same time.

  Compilers are not equally fast, and collectives wait half a minute at most.
  """
  if processes.count() == 1:
    return jitted
  compiled: Any = None

  def call(*args: Any) -> Any:
    nonlocal compiled
    if compiled is None:
      compiled = jitted.lower(*args).compile()
      processes.meet_at(f"{name} compiled")
    return compiled(*args)

  return call


def _draw(
  image: UInt8[AnyArray, "b h w c"], key: Key[jax.Array, ""], steps: int
) -> tuple[Float[jax.Array, "b h w c"], jax.Array, Float[jax.Array, "b h w c"]]:
  x0 = arrays.from_uint8(image)
  t = jax.random.randint(keys.stream(key, "t"), (len(x0),), 0, steps)
  return x0, t, jax.random.normal(keys.stream(key, "eps"), x0.shape)

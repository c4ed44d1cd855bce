# SPDX-License-Identifier: Apache-2.0
"""What training carries from step to step, and the optimiser.

  theta  <- Adam(clip(g), lr(step))
  ema    <- d ema + (1 - d) theta,   d = min(ema, (1 + step) / (10 + step))

The learning rate rises linearly over `warmup` steps, then stays ("constant")
or follows half a cosine to zero ("cosine").
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffmem.arrays import Key

DECAYS = ("constant", "cosine")


def learning_rate(
  *, lr: float, warmup: int, steps: int, decay: str
) -> optax.Schedule:
  """Learning rate by step.

  Raises:
    ValueError: an unknown decay, or a warm-up longer than the training.
  """
  if decay not in DECAYS:
    raise ValueError(f"train.decay={decay!r} is none of {list(DECAYS)}")
  if not 0 <= warmup <= steps:
    raise ValueError(
      f"train.warmup={warmup} must lie between 0 and train.steps={steps}"
    )
  rise = optax.linear_schedule(lr / max(warmup, 1), lr, max(warmup, 1))
  if decay == "constant":
    fall = optax.constant_schedule(lr)
  else:
    fall = optax.cosine_decay_schedule(lr, max(steps - warmup, 1))
  return optax.join_schedules([rise, fall], [warmup])


def optimizer(
  rate: optax.Schedule, *, clip: float
) -> optax.GradientTransformation:
  """Adam (Kingma & Ba 2015) behind a clip of the global gradient norm."""
  return optax.chain(optax.clip_by_global_norm(clip), optax.adam(rate))


def init(
  model_init: Any, tx: optax.GradientTransformation, key: Key[jax.Array, ""]
) -> dict[str, Any]:
  """A fresh state: {"step", "params", "ema", "opt"}."""
  params = model_init(key)
  return {
    "step": jnp.zeros((), jnp.int32),
    "params": params,
    "ema": jax.tree.map(jnp.copy, params),
    "opt": tx.init(params),
  }


def average(ema: Any, params: Any, step: jax.Array, decay: float) -> Any:
  """The exponential moving average, short at first."""
  step = step.astype(jnp.float32)
  d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda e, p: e + (1.0 - d) * (p - e), ema, params)

# SPDX-License-Identifier: Apache-2.0
"""What a network in training is told beside x_t and t, drawn from (key, step).

classes    the label, or the null class with probability `dropout`
captions   the tokens, or none of them with that probability
           (classifier-free guidance: Ho & Salimans 2022)
low        for super-resolution, x0 averaged down, with noise of a level
           u ~ U{levels[0] .. levels[1] - 1}, and u (diffusion.augmentation)
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffmem import keys
from diffmem.arrays import Float, Key
from diffmem.diffusion import augmentation
from diffmem.diffusion.schedules import Schedule
from diffmem.models import Model


def draw(
  model: Model,
  batch: dict[str, Any],
  x0: Float[jax.Array, "b h w c"],
  key: Key[jax.Array, ""],
  *,
  dropout: float,
  schedule: Schedule,
  levels: tuple[int, int] | None,
) -> Any:
  """The condition of a batch, as `model` takes it; see diffmem.models."""
  if model.text is None and model.low is None:
    return None if model.num_classes is None else _labels(
      model.num_classes, batch["label"], key, dropout
    )  # fmt: skip
  found: dict[str, jax.Array] = {}
  if model.text is not None:
    found |= _captions(batch, key, dropout)
  if model.low is not None:
    assert levels is not None
    low = augmentation.smaller(x0, model.low[0])
    level = jax.random.randint(keys.stream(key, "level"), (len(x0),), *levels)
    eps = jax.random.normal(keys.stream(key, "low"), low.shape)
    found |= augmentation.augment(low, eps, level, schedule.alpha_bar)
  return found


def _labels(null: int, label, key, dropout: float) -> jax.Array:
  label = label.astype(jnp.int32)
  if dropout == 0:
    return label
  return jnp.where(_dropped(label, key, dropout), null, label)


def _captions(batch, key, dropout: float) -> dict[str, jax.Array]:
  tokens, mask = batch["tokens"], batch["mask"]
  if dropout > 0:
    kept = ~_dropped(mask[:, 0], key, dropout)
    tokens = jnp.where(kept[:, None, None], tokens, 0.0)
    mask = mask & kept[:, None]
  return {"tokens": tokens, "mask": mask}


def _dropped(rows, key, rate: float) -> jax.Array:
  return jax.random.bernoulli(keys.stream(key, "null"), rate, rows.shape)

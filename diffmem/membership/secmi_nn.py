# SPDX-License-Identifier: Apache-2.0
"""SecMI with a network: where the error is may tell more than how large it is.

  e       = |error_s|, error_s as in `secmi`; r = its root mean square
  size    = (log r - m) / d, m and d its mean and deviation in training
  score_t = linear(size, pool(network(e / r)))

A small convolutional network for each t learns, on a calibration part whose
membership is known, to tell members' error maps from others':

  network  conv 3x3 (width), relu, conv 3x3 with stride 2 (2 width), relu
  pool     mean over pixels
  linear   -> the log-odds of membership; 0 before training

(Duan et al. 2023 give a ResNet-18 the map itself: far too large for small
images and small calibration parts, where the size alone tells most.) A share
of the calibration part, `validation`, is kept from the training: the epoch
with the least cross-entropy on it is taken, and nothing is chosen on the
images that are scored. m and d are of the training share, so that a score
depends on its own image alone.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffmem import keys
from diffmem.arrays import AnyArray, Bool, Float, Key
from diffmem.membership import secmi, signals
from diffmem.membership.protocol import Attack, check_known

Maps = Float[AnyArray, "b h w c"]
_FLOOR = 1e-30  # of a mean square


@jax.jit
def _sizes(
  factor: AnyArray | np.float32, eps: Maps, after: Maps
) -> Float[jax.Array, "b h w c"]:
  return jnp.abs(factor * (eps - after))


def _block(queries, images, cond, *, t, interval, mode):
  found = secmi.errors(queries, images, cond, t=t, interval=interval, mode=mode)
  return [_sizes(*each) for each in found]


def _shape(denoiser, *, t, interval, mode):
  secmi.shape(denoiser, t=t, interval=interval, mode=mode)
  return (len(t), *denoiser.shape)


SIGNAL = signals.Signal("inversion_maps", _block, _shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
  """The network of one t.

  Attributes:
    params: its weights.
    centre, spread: of the log size in training.
    epoch: the one chosen, from 0.
    validation: cross-entropy on the validation share after each epoch.
  """

  params: dict[str, jax.Array]
  centre: float
  spread: float
  epoch: int
  validation: tuple[float, ...]


def fit(
  maps: Any,
  is_member: Bool[AnyArray, " n"],
  *,
  width: int = 8,
  epochs: int = 60,
  lr: float = 1e-2,
  decay: float = 1e-3,
  minibatch: int = 64,
  validation: float = 0.25,
  seed: int = 0,
) -> tuple[Fitted, ...]:
  """A network for each t, of error maps whose membership is known.

  Args:
    maps: [n t h w c], of SIGNAL: an array, or a store that fits in memory.
    is_member: the truth.
    width: channels of the first convolution.
    epochs: passes over the training share; the best one is kept.
    lr, decay, minibatch: of AdamW.
    validation: the share of members, and of others, that chooses the epoch.
    seed: of weights, order and shares.

  Raises:
    ValueError: fewer than two members or non-members, or options that cannot
      be.
  """
  is_member = check_known(is_member, len(maps))
  signals.at_least_one(width=width, epochs=epochs, minibatch=minibatch)
  if not 0 < validation < 1:
    raise ValueError(f"validation = {validation}, expected a share in (0, 1)")
  rng = np.random.default_rng(seed)
  kept = _share(rng, is_member, validation)
  maps = np.asarray(maps[:], np.float32)
  train = functools.partial(
    _train,
    width=width,
    epochs=epochs,
    minibatch=min(minibatch, int((~kept).sum())),
    optimizer=_optimizer(lr, decay),
  )
  fitted = []
  for i in range(maps.shape[1]):
    sizes = _log_size(maps[~kept, i])
    scale = float(sizes.mean()), max(float(sizes.std()), 1e-6)
    parts = [
      (*_inputs(maps[rows, i], *scale), is_member[rows])
      for rows in (~kept, kept)
    ]
    key = keys.stream(keys.root(seed), "membership secmi_nn", i)
    params, epoch, losses = train(*parts, key=key, rng=rng)
    fitted.append(Fitted(params, *scale, epoch, losses))
  return tuple(fitted)


def scores(
  maps: Float[np.ndarray, "n t h w c"],
  fitted: tuple[Fitted, ...],
  *,
  batch: int = 1024,
) -> Float[np.ndarray, "n t"]:
  """Log-odds of membership; higher means member.

  Args:
    maps: of SIGNAL, at the times of `fitted`.
    fitted: what `fit` gave.
    batch: maps at a time.
  """
  if maps.shape[1] != len(fitted):
    raise ValueError(
      f"maps of {maps.shape[1]} times for networks of {len(fitted)}: give "
      "both at the same t"
    )
  found = np.empty(maps.shape[:2], np.float64)
  for start in range(0, len(maps), batch):
    rows = slice(start, start + batch)
    for i, each in enumerate(fitted):
      inputs = _inputs(maps[rows, i], each.centre, each.spread)
      found[rows, i] = _odds(each.params, *inputs)
  return found


def _log_size(maps: Float[np.ndarray, "b h w c"]) -> Float[np.ndarray, " b"]:
  square = np.mean(maps.astype(np.float64) ** 2, axis=(1, 2, 3))
  return 0.5 * np.log(square + _FLOOR)


def _inputs(
  maps: Float[np.ndarray, "b h w c"], centre: float, spread: float
) -> tuple[Float[np.ndarray, "b h w c"], Float[np.ndarray, " b"]]:
  """Where the error is, and how large it is."""
  size = _log_size(maps)
  pattern = maps / np.exp(size)[:, None, None, None]
  size = (size - centre) / spread
  return pattern.astype(np.float32), size.astype(np.float32)


def _share(
  rng: np.random.Generator, is_member: Bool[np.ndarray, " n"], share: float
) -> Bool[np.ndarray, " n"]:
  """Which rows are kept to choose the epoch: at least one of each kind."""
  kept = np.zeros(len(is_member), bool)
  for kind in (True, False):
    rows = rng.permutation(np.flatnonzero(is_member == kind))
    count = min(max(round(share * len(rows)), 1), len(rows) - 1)
    kept[rows[:count]] = True
  return kept


@functools.lru_cache(maxsize=8)  # its step is compiled once
def _optimizer(lr: float, decay: float) -> optax.GradientTransformation:
  return optax.adamw(lr, weight_decay=decay)


def _train(
  train, kept, *, width, epochs, minibatch, optimizer, key, rng
) -> tuple[dict[str, jax.Array], int, tuple[float, ...]]:
  """(the best weights, their epoch, validation losses)."""
  params = _init(key, train[0].shape[-1], width)
  state = optimizer.init(params)
  best, losses = params, []
  for _ in range(epochs):
    order = rng.permutation(len(train[0]))
    for start in range(0, len(order) - minibatch + 1, minibatch):
      rows = order[start : start + minibatch]
      batch = (part[rows] for part in train)
      params, state = _step(optimizer, params, state, *batch)
    losses.append(float(_entropy(params, *kept)))
    if losses[-1] == min(losses):
      best = params
  return best, int(np.argmin(losses)), tuple(losses)


def _init(
  key: Key[jax.Array, ""], channels: int, width: int
) -> dict[str, jax.Array]:
  one, two = jax.random.split(key)
  fan = jax.nn.initializers.he_normal()
  return {
    "one": fan(one, (3, 3, channels, width)),
    "one_bias": jnp.zeros(width),
    "two": fan(two, (3, 3, width, 2 * width)),
    "two_bias": jnp.zeros(2 * width),
    "head": jnp.zeros((2 * width + 1, 1)),
    "head_bias": jnp.zeros(1),
  }


@jax.jit
def _odds(
  params: dict[str, jax.Array], pattern: Maps, size: Float[AnyArray, " b"]
) -> Float[jax.Array, " b"]:
  x = jnp.asarray(pattern)
  for name, stride in (("one", 1), ("two", 2)):
    x = jax.lax.conv_general_dilated(
      x,
      params[name],
      (stride, stride),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = jax.nn.relu(x + params[f"{name}_bias"][None, None, None])
  x = jnp.concatenate([x.mean((1, 2)), size[:, None]], axis=1)
  return (x @ params["head"] + params["head_bias"][None])[:, 0]


@jax.jit
def _entropy(
  params: dict[str, jax.Array],
  pattern: Maps,
  size: Float[AnyArray, " b"],
  truth: Bool[AnyArray, " b"],
) -> Float[jax.Array, ""]:
  odds = _odds(params, pattern, size)
  return optax.sigmoid_binary_cross_entropy(odds, 1.0 * truth).mean()


@functools.partial(jax.jit, static_argnums=0)
def _step(
  optimizer: optax.GradientTransformation,
  params: dict[str, jax.Array],
  state: Any,
  pattern: Maps,
  size: Float[AnyArray, " b"],
  truth: Bool[AnyArray, " b"],
) -> tuple[Any, Any]:
  slope = jax.grad(_entropy)(params, pattern, size, truth)
  change, state = optimizer.update(slope, state, params)
  return optax.apply_updates(params, change), state


ATTACK = Attack(
  name="secmi_nn",
  source="Duan et al. 2023",
  signal=SIGNAL,
  scores=scores,
  defaults={
    "interval": 10,
    "mode": "paper",
    "width": 8,
    "epochs": 60,
    "lr": 1e-2,
    "decay": 1e-3,
    "minibatch": 64,
    "validation": 0.25,
    "seed": 0,
  },
  queries=secmi.queries,
  fit=fit,
)

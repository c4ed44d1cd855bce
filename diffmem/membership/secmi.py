# SPDX-License-Identifier: Apache-2.0
"""SecMI: a member comes back from one ddim hop up and down.

With phi(x, s -> u) the deterministic ddim hop (`steppers.transport`, no
clipping) and k the interval:

  x_s      = phi(... phi(phi(x0, 0 -> k), k -> 2k) ..., -> s)
  error_s  = phi(phi(x_s, s -> s + k), s + k -> s) - x_s
  score_t  = -|error_s|^2, a sum over pixels, not a mean

The image counts as x at index 0, whose ab is not 1. Modes:

  paper     s = t: measured where the paper says, after t / k hops
  official  s is the last multiple of k below t: the authors' program hops to
            range(0, t, k), so that its t = 100 with k = 10 measures at 90

Where t is no multiple of k the last hop of `paper` is shorter.

The hop up and the hop down share x_s, which drops out: with signal a_t and
noise n_t of time t, and u = s + k,

  error_s  = (a_s n_u / a_u - n_s) (eps(x_s, s) - eps(x_u, u)).

So nothing is lost to cancellation, and a walk to T tells the error of every
multiple of k below T. Duan et al., "Are Diffusion Models Vulnerable to
Membership Inference Attacks?", ICML 2023.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float
from diffmem.diffusion import steppers
from diffmem.membership import signals
from diffmem.membership.protocol import Attack

MODES = ("paper", "official")
Images = Float[AnyArray, "b h w c"]


def measured(t: int, interval: int, mode: str) -> int:
  """The time s at which the error of t is taken."""
  if mode not in MODES:
    raise ValueError(f"mode = {mode!r}: choose one of {', '.join(MODES)}")
  return t if mode == "paper" else interval * (max(t - 1, 0) // interval)


def _step(denoiser, params, x, t, u, cond):
  """(eps(x, t), x at u)."""
  t, u = (jnp.full(len(x), s, jnp.int32) for s in (t, u))
  eps = denoiser.predict(params, x, t, cond)[0]
  return eps, steppers.transport(x, eps, t, u, denoiser.schedule.alpha_bar)


def _move(denoiser, params, x, eps, t, u):
  del params
  t, u = (jnp.full(len(x), s, jnp.int32) for s in (t, u))
  return steppers.transport(x, eps, t, u, denoiser.schedule.alpha_bar)


def errors(queries, images, cond, *, t, interval, mode) -> list:
  """(factor, eps, eps after the hop) for each t; see the module.

  The path is walked once for all times.
  """
  wanted = [measured(s, interval, mode) for s in t]
  found, off = {}, sorted({s for s in wanted if s % interval})

  def step(x, s):
    u = min(s + interval, queries.denoiser.schedule.steps - 1)
    numbers = queries.number(s), queries.number(u)
    return queries.call(_step, x, *numbers, cond)

  x, before = queries.encode(images), None
  for now in range(0, _walked(wanted, interval) * interval, interval):
    eps, there = step(x, now)
    if now - interval in wanted:
      found[now - interval] = before, eps
    for s in (s for s in off if now < s < now + interval):
      numbers = queries.number(now), queries.number(s)
      first, up = step(queries.call(_move, x, eps, *numbers), s)
      found[s] = first, step(up, s + interval)[0]
    x, before = there, eps
  alpha_bar = queries.denoiser.schedule.alpha_bar
  return [(_factor(s, interval, alpha_bar), *found[s]) for s in wanted]


def _walked(wanted: list[int], interval: int) -> int:
  """How many multiples of the interval, from 0, the walk asks of."""
  return max(s // interval + (1 if s % interval else 2) for s in wanted)


def _factor(
  s: int, interval: int, alpha_bar: Float[np.ndarray, " t"]
) -> np.float32:
  ab, up = alpha_bar[[s, s + interval]]
  return np.float32(np.sqrt(ab * (1 - up) / up) - np.sqrt(1 - ab))


@jax.jit
def _squares(
  factor: AnyArray | np.float32, eps: Images, after: Images
) -> Float[jax.Array, " b"]:
  return jnp.sum((factor * (eps - after)) ** 2, axis=(1, 2, 3))


def _block(queries, images, cond, *, t, interval, mode):
  found = errors(queries, images, cond, t=t, interval=interval, mode=mode)
  return [_squares(*each) for each in found]


def shape(denoiser, *, t, interval, mode) -> tuple[int, ...]:
  """(t,); ValueError for a time whose hop leaves the schedule."""
  signals.at_least_one(interval=interval)
  last = denoiser.schedule.steps - 1
  for s in t:
    if measured(s, interval, mode) + interval > last:
      raise ValueError(
        f"t = {s} with interval = {interval} hops beyond the last time, "
        f"{last}: choose t <= {last - interval}"
      )
  return (len(t),)


def queries(*, t, interval, mode, **_) -> int:
  """Network calls an image."""
  wanted = {measured(s, interval, mode) for s in t}
  off = sum(s % interval > 0 for s in wanted)
  return _walked(list(wanted), interval) + 2 * off


SIGNAL = signals.Signal("inversion_errors", _block, shape)


def scores(errors: Float[np.ndarray, "n t"]) -> Float[np.ndarray, "n t"]:
  """Scores from the errors; higher means member."""
  return -errors.astype(np.float64)


ATTACK = Attack(
  name="secmi",
  source="Duan et al. 2023",
  signal=SIGNAL,
  scores=scores,
  defaults={"interval": 10, "mode": "paper"},
  queries=queries,
)

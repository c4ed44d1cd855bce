# SPDX-License-Identifier: Apache-2.0
"""Noise schedules, and the timesteps a sampler visits.

The forward process of Ho et al. (2020) has T steps, indexed 0 .. T-1, 0 the
least noise:

  x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) eps,   ab_t = prod_{s<=t} (1 - beta_s).

  linear  beta from 1e-4 to 0.02 in equal steps (Ho et al. 2020)
  cosine  ab_t = f(t + 1) / f(0), f(u) = cos^2(pi/2 (u/T + s) / (1 + s)),
          beta_t = 1 - ab_t / ab_{t-1}, at most max_beta
          (Nichol & Dhariwal 2021, equation 17)

Everything is float64 NumPy: 1 - ab_0 = 1e-4 has only three digits in float32.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
  """The betas of a forward process; equal and hashable by their values."""

  name: str
  betas: Float[np.ndarray, " t"]

  def __post_init__(self):
    betas = np.array(self.betas, np.float64)
    if betas.ndim != 1 or not betas.size:
      raise ValueError(f"betas must be a row of numbers, got {betas.shape}")
    if not ((betas > 0) & (betas < 1)).all():
      raise ValueError(
        f"betas must lie strictly between 0 and 1,"
        f" got {betas.min():g} to {betas.max():g}"
      )
    betas.setflags(write=False)
    object.__setattr__(self, "betas", betas)

  @property
  def steps(self) -> int:
    """T, the number of noise levels."""
    return len(self.betas)

  @functools.cached_property
  def alpha_bar(self) -> Float[np.ndarray, " t"]:
    """The share of signal power left at each t, float64, decreasing."""
    alpha_bar = np.cumprod(1.0 - self.betas)
    alpha_bar.setflags(write=False)
    return alpha_bar

  def check(self, *times: int) -> None:
    """Raises ValueError unless every t is an index of this schedule."""
    for t in times:
      if not 0 <= t < self.steps:
        raise ValueError(
          f"t={t} is outside this schedule: choose 0 to {self.steps - 1}"
        )

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Schedule) and (
      self.name == other.name and np.array_equal(self.betas, other.betas)
    )

  def __hash__(self) -> int:
    return hash((self.name, self.betas.tobytes()))


def linear(
  steps: int = 1000, start: float = 1e-4, end: float = 0.02
) -> Schedule:
  """Betas in equal steps from `start` to `end`."""
  return Schedule("linear", np.linspace(start, end, _positive(steps)))


def cosine(
  steps: int = 1000, s: float = 0.008, max_beta: float = 0.999
) -> Schedule:
  """Betas from a squared-cosine alpha_bar, with offset `s`."""
  u = np.arange(_positive(steps) + 1) / steps
  f = np.cos(np.pi / 2 * (u + s) / (1 + s)) ** 2
  return Schedule("cosine", np.minimum(1 - f[1:] / f[:-1], max_beta))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
  "linear": linear,
  "cosine": cosine,
}


def create(name: str, **knobs) -> Schedule:
  """The schedule of that name; `knobs` are its function's arguments."""
  if name not in SCHEDULES:
    raise ValueError(
      f"unknown schedule {name!r}: choose one of {', '.join(SCHEDULES)}"
    )
  return SCHEDULES[name](**knobs)


def respace(
  steps: int, count: int, spacing: str = "uniform"
) -> Int[np.ndarray, " s"]:
  """The `count` of `steps` timesteps that a sampler visits, increasing.

  Both ends are always among them: t = T-1, where x_T ~ N(0, I) is the right
  start, and t = 0, from which the last step goes to the clean image. (One
  step alone goes from T-1 to the image.)

    uniform    i (T-1) / (count-1), rounded (Nichol & Dhariwal 2021)
    quadratic  i^2 (T-1) / (count-1)^2, rounded, moved up where they would
               coincide: denser at low noise (Song et al. 2021, for CIFAR-10)

  Raises ValueError when count is not in 1 .. steps.
  """
  powers = {"uniform": 1, "quadratic": 2}
  if spacing not in powers:
    raise ValueError(
      f"unknown spacing {spacing!r}: choose one of {', '.join(powers)}"
    )
  if not 1 <= count <= steps:
    raise ValueError(
      f"cannot sample in {count} steps: the schedule has {steps},"
      f" choose 1 to {steps}"
    )
  if count == 1:
    return np.array([steps - 1])
  index = np.arange(count)
  times = (index / (count - 1)) ** powers[spacing] * (steps - 1)
  return np.maximum(np.floor(times + 0.5).astype(np.int64), index)


def _positive(steps: int) -> int:
  if steps < 1:
    raise ValueError(f"steps={steps}: a schedule needs at least 1 step")
  return steps

# SPDX-License-Identifier: Apache-2.0
"""How private DP-SGD is: epsilon of its steps, and the noise for an epsilon.

One step adds noise N(0, (sigma C)^2) to a sum over a Poisson batch, each row
being in it with probability q and clipped to norm C. That one row more or
less in training changes, is

  N(0, sigma^2)   against   (1 - q) N(0, sigma^2) + q N(1, sigma^2)

and T steps are T of these, composed by their privacy loss distributions: a
tight upper bound, rounded upwards (Koskela et al. 2020, arXiv:1906.03049;
dp_accounting). An image that stands in training k times is k rows. That it is
there or not changes a step by as many of its copies as are in the batch,

  sum_j Binomial(k, q)(j) N(j, sigma^2),

a mixture whose losses compose in the same way: far less than k times more
often than the general bound k epsilon of groups says (Ganesh 2024,
arXiv:2401.10294).
"""

import functools

import numpy as np
import scipy.optimize
import scipy.stats

LEAST, MOST = 0.3, 1e4  # noise multipliers that are searched
COARSE, FINE = 1e-3, 1e-4  # steps of the discretized privacy loss
SMALL = 5.0  # an epsilon below which the coarse one would show


@functools.lru_cache(maxsize=256)
def epsilon(
  noise_multiplier: float,
  *,
  rate: float,
  steps: int,
  delta: float,
  copies: int = 1,
) -> float:
  """The epsilon at `delta` of an image that stands in training `copies` times.

  Args:
    noise_multiplier: sigma, noise in units of the clip norm; 0 or more.
    rate: q, in (0, 1].
    steps: how many.
    delta: in (0, 1).
    copies: rows that are one unit of privacy.

  Returns:
    An upper bound; infinity without noise.

  Raises:
    ValueError: an argument that cannot be.
  """
  if noise_multiplier < 0 or not 0 < rate <= 1 or not 0 < delta < 1:
    raise ValueError(
      f"noise_multiplier={noise_multiplier}, rate={rate}, delta={delta}: "
      "expected 0 or more, in (0, 1], in (0, 1)"
    )
  if steps < 1 or copies < 1:
    raise ValueError(
      f"steps={steps}, copies={copies}: expected 1 or more of each"
    )
  if not noise_multiplier:
    return float("inf")
  event = _event(noise_multiplier, rate, copies)
  # The losses of groups are wider, and may be rounded as much more coarsely.
  found = _compose(event, steps, delta, COARSE * copies)
  if found < SMALL and copies == 1:
    found = _compose(event, steps, delta, FINE)
  return found


def noise_for(target: float, *, rate: float, steps: int, delta: float) -> float:
  """The least noise multiplier (to 0.1%) whose epsilon is at most `target`.

  Raises:
    ValueError: no multiplier between LEAST and MOST reaches it.
  """
  options = dict(rate=rate, steps=steps, delta=delta)

  def excess(log_sigma: float) -> float:
    return epsilon(float(np.exp(log_sigma)), **options) - target

  if not target > 0 or excess(np.log(MOST)) > 0:
    least = epsilon(MOST, **options)
    raise ValueError(
      f"epsilon={target} is out of reach: {steps} steps at rate {rate:.3g} are "
      f"({least:.3g}, {delta:g})-private even with noise of {MOST:g} clip "
      "norms; take fewer steps, a smaller batch, or a larger epsilon"
    )
  low, high = np.log(LEAST), np.log(LEAST) + 1
  if excess(low) < 0:
    raise ValueError(
      f"epsilon={target} is reached with noise below {LEAST:g} clip norms, "
      "where it says nothing any more: give noise_multiplier instead"
    )
  while excess(high) > 0:
    low, high = high, min(high + 1, np.log(MOST))
  root = float(scipy.optimize.brentq(excess, low, high, xtol=2e-4))  # pyright: ignore[reportArgumentType]
  while excess(root) > 0:
    root += 2e-4
  return float(np.exp(root))


def _event(noise_multiplier: float, rate: float, copies: int):
  import dp_accounting  # seconds to import

  if copies == 1:
    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    return dp_accounting.PoissonSampledDpEvent(rate, gaussian)
  counts = np.arange(copies + 1)
  chances = np.asarray(scipy.stats.binom.pmf(counts, copies, rate))
  return dp_accounting.dp_event.MixtureOfGaussiansDpEvent(
    noise_multiplier, counts.tolist(), chances.tolist()
  )


def _compose(event, steps: int, delta: float, interval: float) -> float:
  import dp_accounting

  accountant = dp_accounting.pld.PLDAccountant(
    dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, interval
  )
  accountant.compose(dp_accounting.SelfComposedDpEvent(event, steps))
  return float(accountant.get_epsilon(delta))

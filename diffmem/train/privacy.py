# SPDX-License-Identifier: Apache-2.0
"""DP-SGD: what the section `train.privacy` asks for, and what it gives.

  noise_multiplier  sigma, noise in units of `clip`; or None, and then
  epsilon           is given, which sigma is solved for; else None
  delta             of both; below 1 / rows
  clip              C, the most that the gradient of one row may be (l2)
  microbatch        rows whose gradients are held at the same time

The unit of privacy is one row of training, added or removed: an image that
was planted k times is k rows, and `by_copies` says its own epsilon. What is
private are the weights of every step. Not private are the losses and norms in
metrics.jsonl, which are as they are; and the noise follows from the seed,
which meta.json holds: the guarantee is against those who do not know it.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from diffmem.train import accounting

KEYS = ("noise_multiplier", "epsilon", "delta", "clip", "microbatch")


@dataclasses.dataclass(frozen=True)
class Plan:
  """DP-SGD of one training, with its noise.

  Attributes:
    noise_multiplier: sigma. clip: C. delta: of the guarantee.
    rows: of training; rate: of Poisson batches. steps: of training.
  """

  noise_multiplier: float
  clip: float
  delta: float
  rows: int
  rate: float
  steps: int

  def epsilon(self, copies: int = 1) -> float:
    """Of an image that is so many rows; infinity without noise."""
    return accounting.epsilon(
      self.noise_multiplier,
      rate=self.rate,
      steps=self.steps,
      delta=self.delta,
      copies=copies,
    )

  def record(self, copies: Iterable[int]) -> dict[str, Any]:
    """What meta.json keeps; by_copies for each number of copies there is.

    An epsilon is None where there is none: without noise.
    """
    every = sorted({1, *map(int, copies)})
    return {
      **dataclasses.asdict(self),
      "unit": "one row of training, added or removed",
      "epsilon": _finite(self.epsilon()),
      "by_copies": {str(k): _finite(self.epsilon(k)) for k in every},
    }


def plan(train: dict, rows: int) -> Plan | None:
  """What `train.privacy` means for so many rows; None where there is none.

  Raises:
    ValueError: an option that cannot be, or an epsilon out of reach.
  """
  options = train.get("privacy")
  if options is None:
    return None
  check(options)
  delta, batch, steps = options["delta"], train["batch"], train["steps"]
  if not 0 < delta < 1 / rows:
    raise ValueError(
      f"train.privacy.delta={delta:g}: expected less than 1 / rows = "
      f"1 / {rows}; at more, giving away a row of training would count as "
      "private"
    )
  if batch > rows:
    raise ValueError(
      f"train.batch={batch} is more than the {rows} rows of training, of which "
      "a Poisson batch holds each once at most: lower it"
    )
  rate = batch / rows
  sigma = options["noise_multiplier"]
  if sigma is None:
    try:
      sigma = accounting.noise_for(
        options["epsilon"], rate=rate, steps=steps, delta=delta
      )
    except ValueError as e:
      raise ValueError(f"train.privacy: {e}") from None
  return Plan(float(sigma), float(options["clip"]), delta, rows, rate, steps)


def check(options: dict) -> None:
  """ValueError where the section cannot be, whatever it trains on."""
  if set(options) != set(KEYS):
    raise ValueError(
      f"train.privacy has the keys {', '.join(sorted(options))}; expected "
      f"{', '.join(sorted(KEYS))}"
    )
  sigma, epsilon = options["noise_multiplier"], options["epsilon"]
  if (sigma is None) == (epsilon is None):
    raise ValueError(
      f"train.privacy has noise_multiplier={sigma} and epsilon={epsilon}: "
      "give one of the two, the other follows"
    )
  if sigma is not None and not 0 <= sigma < math.inf:
    raise ValueError(
      f"train.privacy.noise_multiplier={sigma}: expected 0 (clipping alone) or "
      "more"
    )
  clip = options["clip"]
  if not 0 < clip < math.inf:
    raise ValueError(
      f"train.privacy.clip={clip}: expected a norm above 0, or nothing is "
      "learnt"
    )
  if options["microbatch"] < 1:
    raise ValueError(
      f"train.privacy.microbatch={options['microbatch']}: expected 1 or more"
    )


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None

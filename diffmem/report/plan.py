# SPDX-License-Identifier: Apache-2.0
"""What stages cost: from work and rates to time, memory and disk.

On a machine whose rates were measured,

  seconds = starts * first + starts * fixed + sum_u units_u rate_u / (n e)

with fixed >= 0 and rate_u >= 0 the least squares of relative errors over runs
of several sizes (Lawson & Hanson 1974, nonnegative), and `first` what the
first call costs beside its work: tracing and compiling. On stated hardware

  seconds = max(F / (u P), B / W) / (n e)

see `hardware`. n devices of efficiency e share what can be divided.

Plain numbers alone: who counts the work, and measures, is `audit`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.optimize

from diffmem.report.hardware import EFFICIENCY, Hardware

Units = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Work:
  """What one stage does.

  Attributes:
    stage: its name. what: in words.
    job: whose rate it has; None for work that is never priced by rates.
    units: how much of it there is, by the names that the rate has.
    starts: how often the fixed costs are paid.
    flops: operations on the device. kind: their type, a key of
      `Hardware.peak`; None for work of the host.
    moved: bytes that products read and write, each once.
    memory: bytes on each device, (whatever their number, divided by it).
    disk: bytes written.
    divided: whether devices share it.
  """

  stage: str
  what: str
  job: str | None = None
  units: Units = dataclasses.field(default_factory=dict)
  starts: int = 1
  flops: float = 0.0
  kind: str | None = None
  moved: float = 0.0
  memory: tuple[float, float] = (0.0, 0.0)
  disk: float = 0.0
  divided: bool = True


@dataclasses.dataclass(frozen=True)
class Fit:
  """fixed seconds, seconds by unit, and how well they fit.

  Attributes:
    fixed: seconds of each run.
    rates: seconds of one unit.
    residuals: (measured - fitted) / fitted of each run.
    largest: units of the largest run.
  """

  fixed: float
  rates: dict[str, float]
  residuals: tuple[float, ...]
  largest: dict[str, float]

  def seconds(self, units: Units, share: float = 1.0) -> float:
    """Of one run; a `share` of each unit falls on one device.

    Raises:
      ValueError: units that were not measured.
    """
    if set(units) != set(self.rates):
      raise ValueError(
        f"units {', '.join(sorted(units))}: the rate has "
        f"{', '.join(sorted(self.rates))}"
      )
    return self.fixed + share * sum(
      self.rates[name] * count for name, count in units.items()
    )


def fit(runs: Sequence[tuple[Units, float]]) -> Fit:
  """The least squares of relative errors, none of the costs negative.

  Args:
    runs: (units, seconds) of each, seconds above 0.

  Raises:
    ValueError: fewer runs than costs, other units, or seconds of no time.
  """
  names = list(runs[0][0]) if runs else []
  if len(runs) < len(names) + 1:
    raise ValueError(
      f"{len(runs)} runs for {len(names) + 1} costs: measure at more sizes"
    )
  seconds = np.array([s for _, s in runs], np.float64)
  if not (seconds > 0).all():
    raise ValueError(f"runs took {seconds.tolist()} s: expected some time each")
  counts = np.array([[u[name] for name in names] for u, _ in runs], np.float64)
  scale = counts.max(0)
  table = np.column_stack([np.ones(len(runs)), counts / scale])
  # Rows by their seconds: an error of 10% counts alike in all sizes.
  found, _ = scipy.optimize.nnls(table / seconds[:, None], np.ones(len(runs)))
  fitted = table @ found
  rates = found[1:] / scale
  return Fit(
    float(found[0]),
    dict(zip(names, rates.tolist(), strict=True)),
    tuple((seconds / fitted - 1).tolist()),
    dict(zip(names, scale.tolist(), strict=True)),
  )


@dataclasses.dataclass(frozen=True)
class Rate:
  """What a job costs on one device of the machine that it was measured on.

  Attributes:
    wall, cpu: seconds by the clock, and of all cores together.
    first: seconds that the first call takes beside its work, by either.
    of: how it was measured, in words.
  """

  wall: Fit
  cpu: Fit
  first: tuple[float, float]
  of: str


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one stage costs.

  Attributes:
    work: of the stage.
    seconds: by the clock; None where nothing is known of it.
    cpu: seconds of all cores together, where rates were measured.
    limit: what sets the time: "rate", "compute", "bandwidth", "unknown".
    memory: bytes on each device.
  """

  work: Work
  seconds: float | None
  cpu: float | None
  limit: str
  memory: float


def measured(
  works: Sequence[Work], rates: Mapping[str, Rate], *, devices: int = 1
) -> list[Cost]:
  """What the works cost where the rates were measured."""
  found = []
  for work in works:
    rate = None if work.job is None else rates.get(work.job)
    seconds = cpu = None
    if rate is not None:
      share = _share(work, devices)
      each = {name: count / work.starts for name, count in work.units.items()}
      seconds = work.starts * (rate.wall.seconds(each, share) + rate.first[0])
      cpu = work.starts * (rate.cpu.seconds(each) + rate.first[1])
    limit = "unknown" if seconds is None else "rate"
    found.append(Cost(work, seconds, cpu, limit, _memory(work, devices)))
  return found


def stated(
  works: Sequence[Work],
  hardware: Hardware,
  *,
  devices: int = 1,
  utilisation: float,
) -> list[Cost]:
  """What the works cost by the vendor's numbers; the host's is not known.

  Raises:
    ValueError: a utilisation outside (0, 1], or no device.
  """
  if not 0 < utilisation <= 1:
    raise ValueError(f"utilisation = {utilisation}, expected a share in (0, 1]")
  if devices < 1:
    raise ValueError(f"devices = {devices}, expected at least 1")
  found = []
  for work in works:
    seconds, limit = None, "unknown"
    if work.kind is not None:
      times = {
        "compute": work.flops / (utilisation * hardware.peak[work.kind]),
        "bandwidth": work.moved / hardware.bandwidth,
      }
      limit = max(times, key=lambda name: times[name])
      seconds = times[limit] * _share(work, devices)
    found.append(Cost(work, seconds, None, limit, _memory(work, devices)))
  return found


def bottleneck(costs: Sequence[Cost]) -> tuple[str, float] | None:
  """(stage, its share of the time) of the dearest; None if none has a time."""
  by_stage: dict[str, float] = {}
  for cost in costs:
    if cost.seconds is not None:
      stage = cost.work.stage
      by_stage[stage] = by_stage.get(stage, 0.0) + cost.seconds
  total = sum(by_stage.values())
  if not total:
    return None
  stage = max(by_stage, key=lambda name: by_stage[name])
  return stage, by_stage[stage] / total


def _share(work: Work, devices: int) -> float:
  if devices == 1 or not work.divided:
    return 1.0
  return 1 / (devices * EFFICIENCY)


def _memory(work: Work, devices: int) -> float:
  whole, divided = work.memory
  return whole + divided / devices


def record(costs: Sequence[Cost]) -> list[dict[str, Any]]:
  """The costs as plain values, for plan.json."""
  return [dataclasses.asdict(cost) for cost in costs]

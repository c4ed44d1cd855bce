# SPDX-License-Identifier: Apache-2.0
"""A plan as lines of text: one row a stage, then what it rests on."""

import math
from collections.abc import Sequence

from diffmem.report import plan

HEADER = (
  "stage",
  "work",
  "time",
  "CPU time",
  "device hours",
  "memory",
  "disk",
  "limit",
)
_SCALES = (  # unit, its seconds, up to how many
  ("s", 1.0, 180.0),
  ("min", 60.0, 10_800.0),
  ("h", 3600.0, 259_200.0),
  ("days", 86_400.0, math.inf),
)
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def lines(costs: Sequence[plan.Cost], *, devices: int = 1) -> list[str]:
  """The table, its sums and its bottleneck."""
  rows = [HEADER, *(_row(cost, devices) for cost in costs)]
  known = [cost.seconds for cost in costs if cost.seconds is not None]
  cpu = [cost.cpu for cost in costs if cost.cpu is not None]
  total = math.fsum(known)
  disk = math.fsum(cost.work.disk for cost in costs)
  rows.append(
    (
      "all",
      "" if len(known) == len(costs) else "without what is unknown",
      duration(total),
      duration(math.fsum(cpu)) if cpu else "",
      hours(math.fsum(_device_seconds(cost, devices) for cost in costs)),
      size(max((cost.memory for cost in costs), default=0.0)),
      size(disk),
      "",
    )
  )
  if not cpu:  # of stated hardware
    rows = [row[:3] + row[4:] for row in rows]
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  found = [
    "  ".join(
      cell.ljust(n) for cell, n in zip(row, widths, strict=True)
    ).rstrip()
    for row in rows
  ]
  dearest = plan.bottleneck(costs)
  if dearest is not None:
    stage, share = dearest
    found.append(f"bottleneck: {stage}, {share:.0%} of the time")
  return found


def fits(rates: dict[str, plan.Rate]) -> list[str]:
  """What each rate rests on: seconds by the clock, CPU seconds, residuals."""
  found = []
  for job, rate in rates.items():
    costs = ", ".join(
      f"{1e6 * s:.4g} us a {unit.removesuffix('s')} ({1e6 * c:.4g} CPU)"
      for (unit, s), c in zip(
        rate.wall.rates.items(), rate.cpu.rates.values(), strict=True
      )
    )
    left = ", ".join(f"{100 * r:+.0f}%" for r in rate.cpu.residuals)
    found.append(
      f"{job}: {rate.first[0]:.1f} s at first, {1e3 * rate.wall.fixed:.3g} ms "
      f"a run, {costs}; {rate.of}; CPU residuals {left}"
    )
  return found


def duration(seconds: float) -> str:
  """In the unit that is read at a glance."""
  unit, length, _ = next(scale for scale in _SCALES if seconds < scale[2])
  return f"{_number(seconds / length)} {unit}"


def hours(seconds: float) -> str:
  """Device hours, three digits."""
  return _number(seconds / 3600)


def size(count: float) -> str:
  """Bytes, in powers of 1,000."""
  i = 0
  while count >= 1000 and i < len(_UNITS) - 1:
    count, i = count / 1000, i + 1
  return f"{count:.3g} {_UNITS[i]}" if count else "-"


def _number(value: float) -> str:
  return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _row(cost: plan.Cost, devices: int) -> tuple[str, ...]:
  work = cost.work
  known = cost.seconds is not None
  return (
    work.stage,
    work.what,
    duration(cost.seconds or 0.0) if known else "unknown",
    "" if cost.cpu is None else duration(cost.cpu),
    hours(_device_seconds(cost, devices)) if known else "",
    size(cost.memory),
    size(work.disk),
    cost.limit if known else "",
  )


def _device_seconds(cost: plan.Cost, devices: int) -> float:
  """What is not divided holds one device alone."""
  return (cost.seconds or 0.0) * (devices if cost.work.divided else 1)

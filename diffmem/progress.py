# SPDX-License-Identifier: Apache-2.0
"""Progress of long work: a bar on a terminal, plain log lines elsewhere."""

import logging
import sys
import time

import tqdm

_log = logging.getLogger(__name__)

_EVERY = 10.0  # seconds between two log lines


class Progress:
  """Rate and time left of `total` units of work.

  with Progress(4096, what="sample", unit="images") as bar:
    bar.update(512)

  Args:
    total: number of units in the whole job.
    what: the stage, as it is shown.
    unit: plural noun of what is counted.
    done: units an earlier run has already made; they are left out of the rate.
    enabled: False shows nothing.
  """

  def __init__(
    self,
    total: int,
    *,
    what: str,
    unit: str,
    done: int = 0,
    enabled: bool = True,
  ):
    self._total, self._what, self._unit = total, what, unit
    self._first = self._count = self._shown = done
    self._enabled = enabled
    self._bar = None

  def __enter__(self) -> "Progress":
    self._start = self._last = time.monotonic()
    if self._enabled and sys.stderr.isatty():
      self._bar = tqdm.tqdm(
        total=self._total,
        initial=self._first,
        desc=self._what,
        unit=f" {self._unit}",
        dynamic_ncols=True,
      )
    return self

  def update(self, n: int = 1, **fields: str) -> None:
    """Counts n more units; fields (a loss, say) are shown beside the rate."""
    self._count += n
    if self._bar is not None:
      if fields:
        self._bar.set_postfix(fields, refresh=False)
      self._bar.update(n)
    elif self._enabled and time.monotonic() - self._last >= _EVERY:
      self._last = time.monotonic()
      self._log(fields)

  def reach(self, count: int) -> None:
    """Counts up to a number, where others work on the same."""
    self.update(max(0, count - self._count))

  def __exit__(self, kind, value, traceback) -> None:
    if self._bar is not None:
      self._bar.close()
    elif self._enabled and kind is None and self._count > self._shown:
      self._log({})

  def _log(self, fields: dict[str, str]) -> None:
    seconds = max(time.monotonic() - self._start, 1e-9)
    rate = (self._count - self._first) / seconds
    left = (self._total - self._count) / max(rate, 1e-9)
    self._shown = self._count
    extra = "".join(f", {key} {value}" for key, value in fields.items())
    _log.info(
      "%s: %d/%d %s, %.3g/s, %s left%s",
      self._what,
      self._count,
      self._total,
      self._unit,
      rate,
      _duration(left),
      extra,
    )


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"

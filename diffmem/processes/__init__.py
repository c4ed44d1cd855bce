# SPDX-License-Identifier: Apache-2.0
"""Several processes of one run: who this one is, and what falls to it.

Every process runs the same program on the same workdir. Chunks of stores are
divided among them; whole files are written by process 0 alone; what cannot be
divided is done by process 0 while the others wait (`led`). They know each
other through files in <workdir>/.processes (`member`, `meeting`); only
training connects them through JAX (`together`). A program that was not told
otherwise is process 0 of 1, and nothing here costs it anything.
"""

import dataclasses
import functools
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from diffmem.processes import cluster
from diffmem.processes.meeting import meet, plain
from diffmem.processes.member import Member

__all__ = [
  "announce",
  "count",
  "event",
  "index",
  "join",
  "leads",
  "leave",
  "led",
  "meet_at",
  "parts",
  "share",
  "together",
  "wait",
]

F = TypeVar("F", bound=Callable)

FOLDER = ".processes"
SELDOM = 5.0  # seconds between two looks at what the others have made


@dataclasses.dataclass
class _Run:
  """What this process knows of the run it is part of.

  member: itself among the others, or None where it is alone.
  announce: how it speaks to them.
  alone: True while process 0 does what is not divided.
  events: how often each event was named.
  prefix: of its events; what runs in a child has its own.
  coordinator: HOST:PORT of JAX's service, or None for one that is found.
  devices: numbers of the accelerators that are this process's, or None.
  chips: variables that let this process have its host's chips to itself.
  """

  member: Member | None = None
  announce: Callable[[str, Any], None] | None = None
  alone: bool = False
  events: Counter = dataclasses.field(default_factory=Counter)
  prefix: str = ""
  coordinator: str | None = None
  devices: Sequence[int] | None = None
  chips: tuple[str, ...] = ()


_run = _Run()


def index() -> int:
  """The number of this process."""
  return _run.member.index if _run.member else 0


def count() -> int:
  """How many processes share the work at this moment."""
  return _run.member.count if _run.member and not _run.alone else 1


def leads() -> bool:
  """Whether this is process 0, which writes whole files."""
  return index() == 0


def share(numbers: Sequence[int]) -> list[int]:
  """Those of the numbers that fall to this process: one run of them."""
  return _part(numbers, index(), count()) if count() > 1 else list(numbers)


def _part(numbers: Sequence[int], i: int, n: int) -> list[int]:
  size = len(numbers)
  return list(numbers[size * i // n : size * (i + 1) // n])


def join(
  workdir: str | os.PathLike,
  *,
  index: int,
  count: int,
  about: dict[str, Any],
  coordinator: str | None = None,
  devices: Sequence[int] | None = None,
) -> None:
  """Meets the other processes of this run.

  Args:
    workdir: of the run; the same for all.
    index, count: of this process.
    about: what must be equal in all of them, plain values.
    coordinator: HOST:PORT where process 0 serves JAX; None: it finds one.
    devices: numbers of the accelerators of this process; None for all.

  Raises:
    ValueError, TimeoutError, OSError: see `meeting.meet`.
  """
  if count == 1:
    return
  folder = os.path.join(os.fspath(workdir), FOLDER)
  member = Member(folder, index, count, plain(about))
  _run.member, _run.announce = member, member.announce
  _run.coordinator, _run.devices = coordinator, devices
  meet(member)
  chips = {k: v for k, v in cluster.own_chips().items() if k not in os.environ}
  os.environ.update(chips)
  _run.chips = tuple(chips)


def leave(error: str = "") -> None:
  """Says that this process ends, and why if it fails."""
  if _run.member is not None:
    _run.member.leave(error)


def event(name: str) -> str:
  """A name for the next event of its kind, the same in every process."""
  _run.events[name] += 1
  return f"{_run.prefix}{name} {_run.events[name]}"


def announce(name: str, value: Any = True) -> None:
  """Tells the other processes of an event."""
  if _run.announce is not None:
    _run.announce(name, value)


def wait(
  name: str, who: Sequence[int] | None = None, **more: Any
) -> dict[int, Any]:
  """Waits for an event of processes `who`, None for all; see `Member.wait`.

  Raises:
    RuntimeError: one of them has died or stopped before it.
  """
  assert _run.member is not None
  return _run.member.wait(name, who, **more)


def meet_at(name: str) -> None:
  """Waits until every process has come to this point."""
  if count() > 1:
    here = event(name)
    announce(here)
    wait(here)


def led(function: F) -> F:
  """Makes a function that process 0 alone runs, while the others wait.

  They get None. In it, process 0 is alone: nothing is divided.
  """

  @functools.wraps(function)
  def wrapped(*args, **kwargs):
    if count() == 1:
      return function(*args, **kwargs)
    done = event(f"{function.__module__}.{function.__qualname__}")
    if not leads():
      wait(done, (0,))
      return None
    _run.alone = True
    try:
      result = function(*args, **kwargs)
    finally:
      _run.alone = False
    announce(done)
    return result

  return wrapped  # pyright: ignore[reportReturnType]


def parts(
  written: Callable[[], Iterable[int]],
  total: int,
  *,
  what: str,
  meanwhile: Callable[[], None] | None = None,
) -> Iterator[list[int]]:
  """The missing chunks that fall to this process, until none is missing.

  Every process works on its own part, whatever becomes of the others; then it
  waits for theirs. What a dead one owes is named, and made by the next run.

  Args:
    written: gives the numbers of the chunks that are there.
    total: how many there must be.
    what: is filled, for events and errors.
    meanwhile: called now and then while the others are waited for.

  Raises:
    RuntimeError: another process died or stopped before its part was done.
  """

  def missing() -> list[int]:
    return sorted({*range(total)} - {*written()})

  for _ in itertools.count():
    todo = missing()
    meet_at(f"{what} looked at")  # nobody writes before
    if not todo:
      if meanwhile is not None and count() > 1:
        meanwhile()
      return

    def lacking(i: int, todo: list[int] = todo) -> str:
      owed = set(_part(todo, i, count())) & set(missing())
      return (
        f"{len(owed)} of {total} chunks of {what} are missing; the same "
        "command makes them"
      )

    mine = share(todo)
    if mine:
      yield mine
    if count() == 1:
      return
    made = event(f"{what} made")
    announce(made)
    wait(made, meanwhile=meanwhile and _seldom(meanwhile), lacking=lacking)


def _seldom(function: Callable[[], None]) -> Callable[[], None]:
  """Calls it so seldom that it costs little: it lists what may be large."""
  last, cost = time.monotonic(), 0.0

  def call() -> None:
    nonlocal last, cost
    start = time.monotonic()
    if start - last < max(SELDOM, 20 * cost):
      return
    function()
    last = time.monotonic()
    cost = last - start

  return call


def together(function: Callable, *args: Any, **kwargs: Any) -> None:
  """Calls a function in all processes, connected through JAX; see `child`."""
  if count() == 1:
    function(*args, **kwargs)
    return
  # Here: most runs are of one process.
  from diffmem.processes import child

  child.run(_run, function, args, kwargs)

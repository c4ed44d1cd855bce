# SPDX-License-Identifier: Apache-2.0
"""What needs all devices of all processes: a child of each, joined by JAX.

Collectives hang when a process dies, and JAX's runtime ends a program without
a word when it loses its coordinator. So the collective part of a run, its
training, runs in a child process of each process: the parent, which does
nothing else, watches the child and the other parents, ends the child where it
would hang, and says who died. When the child has done its work, the parent
goes on alone on its own devices, and no later death concerns it.
"""

import builtins
import dataclasses
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing import connection
from typing import Any

from diffmem.processes.member import POLL, SILENT, Member

CONNECT = 30  # seconds in which children that are all there must connect
ADVICE = "; the same command goes on from here"


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What a child is told of the run."""

  folder: str
  index: int
  count: int
  files: dict[int, str]
  coordinator: str
  devices: list[int] | None
  prefix: str


def run(state: Any, function: Callable, args: tuple, kwargs: dict) -> None:
  """Runs the function in a child of every process; state: of this one.

  Raises:
    RuntimeError: another process died or stopped; the child died.
    Others: what the function raised.
  """
  member: Member = state.member
  prefix = f"child {state.events.total()}: "
  state.events["child"] += 1
  plan = _Plan(
    os.fspath(member.folder),
    member.index,
    member.count,
    member.files,
    _coordinator(state, prefix),
    None if state.devices is None else list(state.devices),
    prefix,
  )
  context = multiprocessing.get_context("spawn")
  ours, theirs = context.Pipe()
  child = context.Process(
    target=_main, args=(plan, theirs, function, args, kwargs), daemon=True
  )
  _start(child, state.chips)
  theirs.close()
  try:
    _watch(member, child, ours, plan)
  finally:
    child.kill()
    child.join()


def _start(child: Any, without: Iterable[str]) -> None:
  """Starts the child with JAX's runtime told to keep its log to itself.

  without: variables that are the parent's alone.
  """
  kept = dict(os.environ)
  for name in without:
    del os.environ[name]
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  try:
    child.start()
  finally:
    os.environ.clear()
    os.environ.update(kept)


def _watch(member: Member, child: Any, pipe: Any, plan: _Plan) -> None:
  """Until all children are done; whoever is gone ends this one too."""
  error: BaseException | None = None
  connected = False
  expires = float("inf")
  while True:
    if error is None and pipe in connection.wait([pipe, child.sentinel], POLL):
      try:
        kind, value = pipe.recv()
      except (EOFError, OSError):  # it was killed
        kind, value = "failed", ()
      if kind == "event":
        member.announce(*value)
        continue
      if kind == "done":
        # The child of process 0 serves the others until they are done too.
        member.announce(f"{plan.prefix}done")
        member.wait(f"{plan.prefix}done")
        return
      if kind == "connected":
        connected = True
        continue
      error = _error(value, child) if connected or value else _lost(plan)
      killed = child.exitcode == -signal.SIGKILL
      if killed or not isinstance(error, RuntimeError | ConnectionError):
        raise error
      # A broken collective is the trace of a death elsewhere, which may show
      # only later.
      lost = isinstance(error, ConnectionError)
      expires = time.monotonic() + (POLL if lost else SILENT + 10)
    gone = member.ended()
    if gone:
      raise RuntimeError(gone[1].removesuffix(ADVICE) + ADVICE)
    if error is not None:
      if time.monotonic() > expires:
        raise error
      time.sleep(POLL)


def _error(value: tuple[str, ...], child: Any) -> BaseException:
  if not value:
    child.join(10)
    return RuntimeError(
      f"the training process died (exit status {child.exitcode}; out of "
      f"memory?){ADVICE}"
    )
  name, text, trace = value
  try:
    error = getattr(builtins, name, RuntimeError)(text)
  except TypeError:  # one that takes more than a text
    error = RuntimeError(text)
  error.add_note(trace)
  return error


def _lost(plan: _Plan) -> ConnectionError:
  return ConnectionError(
    f"process {plan.index} could not connect through {plan.coordinator} within "
    f"{CONNECT} s; give --coordinator=HOST:PORT, an address of process 0 that "
    "all machines reach, with a free port"
  )


def _coordinator(state: Any, prefix: str) -> str:
  """HOST:PORT of JAX's service; process 0 finds one where none is given."""
  if state.coordinator is not None:
    return state.coordinator
  member: Member = state.member
  if member.index == 0:
    with socket.socket() as s:
      s.bind(("", 0))
      port = s.getsockname()[1]
    machines = {(member.read(i) or {}).get("machine") for i in member.files}
    host = "localhost" if len(machines) == 1 else socket.gethostname()
    member.announce(f"{prefix}coordinator", f"{host}:{port}")
  found = member.wait(f"{prefix}coordinator", (0,))
  return found[0]


def _main(
  plan: _Plan, pipe: Any, function: Callable, args: tuple, kwargs: dict
) -> None:
  """The child."""
  threading.Thread(target=_end_with_parent, daemon=True).start()
  _quiet()
  send = threading.Lock()

  def tell(kind: str, value: Any) -> None:
    with send:
      pipe.send((kind, value))

  try:
    _connect(plan, lambda name, value: tell("event", (name, value)))
    tell("connected", None)
    function(*args, **kwargs)
  except BaseException as e:
    text = " ".join(str(e).split()) or type(e).__name__
    tell("failed", (type(e).__name__, text, traceback.format_exc()))
    pipe.recv()  # the parent ends us
  tell("done", None)
  pipe.recv()


def _connect(plan: _Plan, announce: Callable[[str, Any], None]) -> None:
  from diffmem import processes

  member = Member(plan.folder, plan.index, plan.count)
  member.files = plan.files
  own = plan.files[plan.index]
  state = processes._run
  state.member, state.announce = member, announce
  state.prefix = plan.prefix
  # Its own events are in the parent's file, as the others' are in theirs.
  member.name = own
  import jax

  processes.meet_at("ready to connect")
  jax.distributed.initialize(
    coordinator_address=plan.coordinator,
    num_processes=plan.count,
    process_id=plan.index,
    local_device_ids=plan.devices,
    cluster_detection_method="deactivate",
    initialization_timeout=CONNECT,
  )


def _end_with_parent() -> None:
  """A child must not outlive its parent, which may have been killed."""
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os._exit(1)


def _quiet() -> None:
  """Our own messages, in the form of the programs; nobody else's.

  The libraries below Python greet on standard output, and leave a trace of
  the stack when another process has died: --traceback shows all that.
  """
  if "--traceback" not in sys.argv:
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
      os.dup2(nowhere, stream)
    os.close(nowhere)
  logging.basicConfig(
    level=logging.CRITICAL,
    format="%(asctime)s %(message)s",
    datefmt="%H:%M:%S",
    force=True,
  )
  logging.getLogger("diffmem").setLevel(logging.INFO)
  logging.getLogger("absl").setLevel(logging.CRITICAL)

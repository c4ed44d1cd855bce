# SPDX-License-Identifier: Apache-2.0
"""One process among several, as the others see it: a small file that beats.

A member writes `<folder>/<number>.<nonce>.json`, and writes it again every
few seconds with a higher `beat`. Others read there who it is, which events it
has announced, and, by the beat, that it is alive. There is no server and no
open port, so that it works on every folder that all can see, a bucket too.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from diffmem import buckets

BEAT = 2.0  # seconds between two beats
SILENT = 30.0  # seconds without a beat after which a member counts as dead
POLL = 1.0  # seconds between two looks at the others, fewer at first


class Member:
  """This process, in the folder where it meets the others.

  Attributes:
    folder: where the members' files lie.
    index: its number, 0 to count - 1.
    count: how many there are.
    files: number -> file of each member, known once they have met.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    index: int,
    count: int,
    about: dict[str, Any] | None = None,
  ):
    if "://" in os.fspath(folder):
      buckets.path(folder)  # prepares its client; beats are not tried again
    local = "://" not in os.fspath(folder)
    self.folder = epath.Path(folder) if local else buckets.path(folder)
    self.index, self.count = index, count
    self.nonce = secrets.token_hex(6)
    self.name = f"{index}.{self.nonce}.json"
    self.files = {index: self.name}
    self._watch = Watch()
    self._write = threading.Lock()
    self._stop = threading.Event()
    self._thread: threading.Thread | None = None
    self._content: dict[str, Any] = {
      "index": index,
      "count": count,
      "nonce": self.nonce,
      "pid": os.getpid(),
      "host": socket.gethostname(),
      "machine": machine(),
      "beat": 0,
      "met": False,
      "sees": [],
      "events": {},
      "ended": None,
      "about": about or {},
    }

  def start(self) -> None:
    """Begins to beat.

    Raises:
      OSError: the folder cannot be written.
    """
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      self.say()
    except OSError as e:
      raise OSError(
        f"process {self.index} cannot write to {self.folder} "
        f"({e.strerror or e}); give a --workdir that every process may write"
      ) from e
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._thread.start()

  def say(self, **fields: Any) -> None:
    """Writes the file anew, with these fields changed."""
    with self._write:
      self._content |= fields
      self._content["beat"] += 1
      _put(self.folder / self.name, self._content)

  def announce(self, event: str, value: Any = True) -> None:
    """Tells the others that something has happened."""
    self.say(events={**self._content["events"], event: value})

  def wait(
    self,
    event: str,
    who: Iterable[int] | None = None,
    *,
    meanwhile: Callable[[], None] | None = None,
    lacking: Callable[[int], str] | None = None,
  ) -> dict[int, Any]:
    """Waits until members have announced an event.

    Args:
      event: which.
      who: their numbers; None for all.
      meanwhile: called between two looks.
      lacking: says what member i has left undone, for the error.

    Returns:
      What each has said of it.

    Raises:
      RuntimeError: one of them has died or stopped before.
    """
    found: dict[int, Any] = {}
    waiting = set(self.files if who is None else who)
    pause = POLL / 64
    while True:
      for i in sorted(waiting):
        content = self.read(i)
        if content and event in content["events"]:
          found[i] = content["events"][event]
      waiting -= set(found)
      if not waiting:
        return found
      gone = self.ended(waiting)
      if gone:
        i, text = gone
        content = self.read(i)
        if content and event in content["events"]:
          continue  # announced, and left, between the two looks
        raise RuntimeError(text + (f": {lacking(i)}" if lacking else ""))
      if meanwhile is not None:
        meanwhile()
      time.sleep(pause)
      pause = min(1.2 * pause, POLL)

  def read(self, i: int) -> dict[str, Any] | None:
    """What member i says of itself; None where its file cannot be read."""
    if i == self.index and self._thread is not None:
      return self._content
    return get(self.folder / self.files[i])

  def ended(self, who: Iterable[int] | None = None) -> tuple[int, str] | None:
    """The first of these members that is gone, and why; None: all are there.

    A death comes before an error, which may only tell of it.
    """
    said = None
    for i in sorted(self.files if who is None else who):
      if i == self.index:
        continue
      content = self.read(i)
      state = self._watch.look(self.files[i], content)
      if content and content["ended"] is not None:
        why = content["ended"] or "it has done its work"
        said = said or (i, f"process {i} stopped: {why}")
      elif state == "dead":
        return i, f"process {i} ({where(content)}) died"
    return said

  def leave(self, error: str = "") -> None:
    """Ends the beat; `error` says why, for the others."""
    self._stop.set()
    if self._thread is None:
      return
    self._thread.join()
    self._thread = None
    with contextlib.suppress(OSError):
      self.say(ended=error)

  def _beat(self) -> None:
    while not self._stop.wait(BEAT):
      with contextlib.suppress(OSError):  # the next one may come through
        self.say()


class Watch:
  """Tells the living from the dead: a beat that moves, or a process here."""

  def __init__(self):
    self._seen: dict[str, tuple[int, float, bool]] = {}

  def look(self, name: str, content: dict[str, Any] | None) -> str:
    """One of alive, dead, unknown: of another machine, and seen only once."""
    now = time.monotonic()
    beat, since, moved = self._seen.get(name, (-1, now, False))
    here = content is not None and content["machine"] == machine()
    if content is not None:
      if here and _gone(content["pid"]):
        return "dead"
      if content["beat"] != beat:
        moved = moved or here or beat >= 0
        beat, since = content["beat"], now
    self._seen[name] = beat, since, moved
    if now - since > SILENT:
      return "dead"
    return "alive" if moved else "unknown"


def machine() -> str:
  """Names the machine, and what process numbers mean on it."""
  parts = [socket.gethostname()]
  with contextlib.suppress(OSError):
    parts.append(os.readlink("/proc/self/ns/pid"))
    with open("/proc/sys/kernel/random/boot_id") as f:
      parts.append(f.read().strip())
  return " ".join(parts)


def where(content: dict[str, Any] | None) -> str:
  """The process of a file, for messages."""
  if content is None:
    return "its file is gone"
  return f"pid {content['pid']} on {content['host']}"


def get(file: epath.Path) -> dict[str, Any] | None:
  """A member's file; None where it is not there, or half written."""
  try:
    return json.loads(file.read_text())
  except (OSError, ValueError):
    return None


def _put(file: epath.Path, content: dict[str, Any]) -> None:
  """Whole or not at all, here in haste: what is lost is said again."""
  text = json.dumps(content)
  if "://" in os.fspath(file):
    file.write_text(text)
    return
  temporary = file.with_name(file.name + ".tmp")
  temporary.write_text(text)
  os.replace(temporary, file)


def _gone(pid: int) -> bool:
  """Whether no process of this machine has the number, or a dead one."""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except OSError:
    return False
  try:
    with open(f"/proc/{pid}/stat") as f:
      return f.read().rpartition(")")[2].split()[0] == "Z"
  except (OSError, IndexError):
    return False

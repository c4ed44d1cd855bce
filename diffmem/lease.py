# SPDX-License-Identifier: Apache-2.0
"""A lock on a bucket: an object that its owner renews, and that runs out.

    {"owner": who, "since": when, "nonce": which run, "beat": 0, 1, 2, ...}

Each write is conditional on the generation that it replaces (compare and
swap), so of two runs that try at once one wins. The owner adds 1 to `beat`
every BEAT seconds. Whoever wants a lease that is there watches it: if it
changes, its owner lives and the caller is refused; if it stands still for
EXPIRY seconds of the caller's own clock, its owner is dead and it is taken
over. No two clocks are ever compared. An owner that could not renew for EXPIRY
seconds, or finds another's lease, has lost it: its next `check` raises.

C. Gray and D. Cheriton, "Leases", SOSP 1989.
"""

import contextlib
import datetime
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from diffmem import retry

_log = logging.getLogger(__name__)

BEAT = 10.0  # seconds
EXPIRY = 60.0

_lost: list[str] = []  # one sentence for each lease that this process lost


def check() -> None:
  """Raises OSError if this process lost a lease that it still works under."""
  if _lost:
    raise OSError(_lost[0])


@contextlib.contextmanager
def hold(folder: str | os.PathLike, name: str = ".lock") -> Iterator[None]:
  """Holds the lease of a folder on a bucket (any URL that tensorstore opens).

  Raises:
    OSError: another run holds it, or it cannot be written.
  """
  lease = _Lease(os.fspath(folder).rstrip("/"), name)
  lease.take()
  thread = threading.Thread(target=lease.renew, daemon=True)
  thread.start()
  try:
    yield
  finally:
    lease.stop.set()
    thread.join()
    lease.release()


class _Lease:
  """One lease: taken, renewed by a thread, released."""

  def __init__(self, folder: str, name: str):
    import tensorstore as ts  # only buckets need it here

    self.folder = folder
    self.name = name
    self.stop = threading.Event()
    self.content = {
      "owner": f"process {os.getpid()} on {socket.gethostname()}",
      "since": datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"),
      "nonce": uuid.uuid4().hex,
      "beat": 0,
    }
    self._generation = b""
    self._store: Any = ts.KvStore.open(
      folder + "/", context=ts.Context(retry.TENSORSTORE)
    ).result()

  def take(self) -> None:
    """Returns when it is ours; raises OSError when its owner lives."""
    while True:
      found = self._read()
      if found.state == "value":
        self._outwait(found)
      # If it was released or taken meanwhile, the condition fails: look again.
      if self._swap(found.stamp.generation):
        return

  def renew(self) -> None:
    """Adds 1 to the beat every BEAT seconds, until `stop` or a loss."""
    last = time.monotonic()
    while not self.stop.wait(BEAT):
      self.content["beat"] += 1
      try:
        if not self._swap(self._generation):
          self._lose("another run took it over")
          return
        last = time.monotonic()
      except Exception as e:
        _log.warning("the lease of %s: %s", self.folder, retry.reason(e))
        if time.monotonic() - last > EXPIRY:
          self._lose(f"it could not be renewed ({retry.reason(e)})")
          return

  def release(self) -> None:
    """Removes it, if it is still ours."""
    with contextlib.suppress(Exception):  # then it runs out
      self._store.write(self.name, None, if_equal=self._generation).result()

  def _outwait(self, found: Any) -> None:
    """Watches a lease that is there: returns when it stood still, or went."""
    who = _owner(found.value)
    _log.info("%s: looking whether %s still runs", self.folder, who)
    start = time.monotonic()
    while time.monotonic() - start < EXPIRY:
      time.sleep(BEAT / 10)
      now = self._read()
      if now.state == "missing":
        return
      if now.stamp.generation != found.stamp.generation:
        raise OSError(
          f"{self.folder} is in use by {_owner(now.value)}; wait for it to "
          "end, stop it, or choose another --workdir"
        )
    _log.warning("%s: taken over from %s, which died", self.folder, who)

  def _swap(self, generation: bytes) -> bool:
    """Writes our content in the place of that generation, if it is there."""
    content = json.dumps(self.content).encode()

    def write() -> bytes:
      done = self._store.write(self.name, content, if_equal=generation)
      return done.result().generation

    written = retry.call(write, what=f"{self.folder}/{self.name} failed")
    if not written:
      # The condition fails, too, when the answer to a first try was lost.
      found = self._read()
      if found.value != content:
        return False
      written = found.stamp.generation
    self._generation = written
    return True

  def _read(self) -> Any:
    return retry.call(
      lambda: self._store.read(self.name).result(),
      what=f"{self.folder}/{self.name} failed",
    )

  def _lose(self, why: str) -> None:
    text = (
      f"this run lost the lease of {self.folder}: {why}; nothing more is "
      "written, rerun when no other run works there"
    )
    _log.error("%s", text)
    _lost.append(text)


def _owner(content: bytes) -> str:
  """Who holds a lease and since when."""
  try:
    about = json.loads(content)
    return f"{about['owner']} since {about['since']}"
  except (ValueError, KeyError, TypeError):
    return "another run"

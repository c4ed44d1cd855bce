# SPDX-License-Identifier: Apache-2.0
"""One run works in a stage's folder: the others are refused.

In a local folder the lock is the kernel's (flock) and goes with its process,
even if that is killed. In a bucket it is a lease; see `lease`.
"""

import contextlib
import os
import socket
from collections.abc import Iterator

from etils import epath

from diffmem import buckets, lease

try:
  import fcntl
except ImportError:  # no advisory locks on this platform
  fcntl = None


@contextlib.contextmanager
def hold(folder: epath.Path) -> Iterator[None]:
  """Holds the lock of a folder, which must be there.

  Raises:
    OSError: another run holds it; says which.
  """
  if isinstance(folder, buckets.Path):
    with lease.hold(folder):
      yield
    return
  if fcntl is None:
    yield
    return
  with open(folder / ".lock", "a+") as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      f.seek(0)
      raise OSError(
        f"{folder} is in use by {f.read().strip() or 'another run'}; wait for "
        "it to end, stop it, or choose another --workdir"
      ) from None
    f.truncate(0)
    f.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    f.flush()
    yield

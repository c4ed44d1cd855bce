# SPDX-License-Identifier: Apache-2.0
"""Storage that fails now and then is asked again, a bounded number of times.

The k-th new try, k = 0, 1, ..., comes after FIRST 2^k u seconds with u uniform
in [1/2, 3/2], so that many processes which failed together do not come back
together. Only errors that may pass are waited out (a server that is busy or
gone, a time-out); no space, no rights, no such bucket and damaged bytes are
raised at once.
"""

import errno
import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

TRIES = 6
FIRST = 1.0  # seconds
LIMIT = 120.0  # no new try after so many seconds

# tensorstore's own tries, of single requests: short, so that those here tell.
TENSORSTORE = {
  "gcs_request_retries": {
    "max_retries": 4,
    "initial_delay": "500ms",
    "max_delay": "4s",
  }
}

_PASSING = {
  getattr(errno, name)
  for name in (
    "EAGAIN",
    "ECONNABORTED",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTDOWN",
    "EHOSTUNREACH",
    "EINTR",
    "EIO",  # network file systems
    "ENETDOWN",
    "ENETRESET",
    "ENETUNREACH",
    "EPIPE",
    "ESTALE",
    "ETIMEDOUT",
  )
  if hasattr(errno, name)
}
_STATUSES = {408, 429, 500, 502, 503, 504}  # of HTTP
# Classes of the libraries below fsspec, which are not imported here.
_NAMES = {"ClientError", "RequestException", "TransportError", "ChecksumError"}
# tensorstore raises ValueError for everything; the message starts so.
_TENSORSTORE = re.compile(
  r"(UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|INTERNAL)\b"
  rf"|.*os_error_code='({errno.EIO}|{errno.ESTALE})'",
  re.DOTALL,
)


def call(
  do: Callable[[], _Result], *, what: str, tries: int = TRIES
) -> _Result:
  """The result of `do()`, called again while it fails with a passing error.

  Args:
    do: may be called several times; has the same effect each time.
    what: what it means if it fails, "PATH could not be read".
    tries: how often it is called at most.

  Raises:
    OSError: it still fails with a passing error; other errors as they come.
  """
  start = time.monotonic()
  for k in range(tries):
    try:
      return do()
    except Exception as e:
      if not passing(e):
        raise
      seconds = time.monotonic() - start
      wait = FIRST * 2**k * random.uniform(0.5, 1.5)
      if k + 1 == tries or seconds + wait > LIMIT:
        often = f" {k + 1} times in {seconds:.0f} s" if k else ""
        raise OSError(
          f"{what}{often} ({reason(e)}); what is there is kept: rerun when the "
          "storage answers again"
        ) from e
      _log.warning(
        "%s: %s; try %d of %d in %.1f s", what, reason(e), k + 2, tries, wait
      )
      _sleep(wait)
  raise ValueError(f"tries={tries} must be at least 1")


def passing(error: BaseException) -> bool:
  """Whether the same call may well succeed a little later."""
  if isinstance(error, TimeoutError | ConnectionError):
    return True
  code = getattr(error, "code", None)  # of gcsfs and google.cloud
  if isinstance(code, int):
    return code in _STATUSES
  if _NAMES & {kind.__name__ for kind in type(error).__mro__}:
    return True
  if isinstance(error, OSError) and error.errno is not None:
    return error.errno in _PASSING
  if isinstance(error, ValueError) and _TENSORSTORE.match(str(error)):
    return True
  return error.__cause__ is not None and passing(error.__cause__)


def reason(error: BaseException) -> str:
  """An error's first line, without the source trail of tensorstore."""
  text = " ".join(str(error).split(" [")[0].split())[:300]
  return text or type(error).__name__


def _sleep(seconds: float) -> None:
  time.sleep(seconds)

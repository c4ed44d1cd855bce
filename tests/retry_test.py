# SPDX-License-Identifier: Apache-2.0
"""Retries: which errors, how often, how long, and what is said."""

import errno
import logging

import pytest

from diffmem import retry


class HttpError(Exception):
  """As gcsfs raises it."""

  def __init__(self, code):
    super().__init__(f"injected, {code}")
    self.code = code


class ClientError(Exception):
  """As aiohttp raises it; known by its name."""


class ServerDisconnectedError(ClientError):
  pass


class ClientConnectorError(OSError, ClientError):
  """No such host: its number is none of errno's."""


@pytest.fixture
def slept(monkeypatch):
  """The pauses; time goes on by them alone."""
  pauses = []
  monkeypatch.setattr(retry, "_sleep", pauses.append)
  monkeypatch.setattr(retry.time, "monotonic", lambda: sum(pauses))
  return pauses


def _failing(times, error):
  """A call that fails so often, then returns how often it was called."""
  calls = []

  def do():
    calls.append(None)
    if len(calls) <= times:
      raise error
    return len(calls)

  return do


def test_a_passing_error_is_waited_out_and_logged(slept, caplog):
  with caplog.at_level(logging.WARNING):
    found = retry.call(
      _failing(3, HttpError(503)), what="runs/x could not be written"
    )
  assert found == 4
  assert len(slept) == 3
  for k, seconds in enumerate(slept):
    assert 0.5 * 2**k <= seconds <= 1.5 * 2**k
  assert "runs/x could not be written: injected, 503; try 4 of 6" in caplog.text


def test_it_ends_with_one_line_that_names_the_path(slept):
  do = _failing(99, OSError(errno.EIO, "Input/output error"))
  with pytest.raises(OSError, match=r"runs/x 6 times in \d+ s \(.*Input"):
    retry.call(do, what="runs/x")
  assert len(slept) == 5


def test_it_ends_in_time(slept, monkeypatch):
  monkeypatch.setattr(retry, "FIRST", 30.0)
  with pytest.raises(OSError, match=r"[23] times in"):
    retry.call(_failing(99, TimeoutError()), what="x")
  assert sum(slept) <= retry.LIMIT


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, "No space left on device"),
    PermissionError(errno.EACCES, "Permission denied"),
    FileNotFoundError("runs/x"),
    OSError("Forbidden: http://..."),
    HttpError(401),
    HttpError(412),
    ValueError("RESOURCE_EXHAUSTED: No space left [os_error_code='28']"),
    ValueError("PERMISSION_DENIED: injected"),
    ValueError("DATA_LOSS: CRC32C checksum mismatch"),
    KeyError("x"),
  ],
)
def test_other_errors_are_raised_at_once(slept, error):
  do = _failing(1, error)
  with pytest.raises(type(error)) as raised:
    retry.call(do, what="x")
  assert raised.value is error
  assert not slept
  assert do() == 2


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ESTALE, "Stale file handle"),
    ConnectionResetError(),
    TimeoutError("timed out"),
    HttpError(429),
    ServerDisconnectedError("gone"),
    ClientConnectorError(-3, "Temporary failure in name resolution"),
    ValueError("ABORTED: All 4 retry attempts failed: injected"),
    ValueError("UNAVAILABLE: x"),
    ValueError("UNKNOWN: reading [os_error_code='5']"),
  ],
)
def test_errors_that_may_pass(error):
  assert retry.passing(error)
  outer = RuntimeError("a save failed")
  outer.__cause__ = error
  assert retry.passing(outer)

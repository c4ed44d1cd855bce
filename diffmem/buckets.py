# SPDX-License-Identifier: Apache-2.0
"""Paths on a bucket: gs://NAME/..., for everything that is no array.

A bucket has no folders, only objects whose names contain slashes; an object
is put whole or not at all. `Path` is an epath whose calls are retried, and
whose errors name the path and say what to do; arrays go through tensorstore
and checkpoints through orbax, to the same objects.
"""

import contextlib
import functools
import importlib.util
import io
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any, cast

from etils.epath import gpath

from diffmem import retry

_EXTRAS = {"gs": ("gcsfs", "gcs")}  # scheme -> module and extra
_PLAIN = (FileNotFoundError, FileExistsError, NotADirectoryError)


class Path(gpath.PosixGPath):
  """A path that starts with gs://; made by `path`."""

  def exists(self) -> bool:
    """Whether there is an object of this name, or one below it."""
    return self._ask("looked up", super().exists)

  def is_dir(self) -> bool:
    """Whether there are objects below this name."""
    return self._ask("looked up", super().is_dir)

  def is_file(self) -> bool:
    """Whether there is an object of this name."""
    return self._ask("looked up", super().is_file)

  def stat(self) -> Any:
    """Size and time of the object."""
    return self._ask("looked up", super().stat)

  def iterdir(self) -> Iterator["Path"]:
    """The names directly below; FileNotFoundError where there are none."""
    above = super().iterdir
    yield from self._ask("listed", lambda: list(above()))

  def glob(self, pattern: str) -> Iterator["Path"]:
    """The names below that match."""
    above = super().glob
    yield from self._ask("listed", lambda: list(above(pattern)))

  def mkdir(self, *_: Any, **__: Any) -> None:
    """Does nothing: folders come with their files."""

  def open(self, mode: str = "r", **kwargs: Any) -> Any:
    """A file; one for reading has been read whole."""
    if mode not in ("r", "rb"):
      return super().open(mode, **kwargs)
    content = io.BytesIO(self.read_bytes())
    return content if mode == "rb" else io.TextIOWrapper(content, "utf-8")

  def read_bytes(self) -> bytes:
    """The content."""

    def read() -> bytes:
      with super(Path, self).open("rb") as f:
        return bytes(cast(bytes, f.read()))

    return self._ask("read", read)

  def read_text(self, encoding: str | None = None) -> str:
    """The content as text."""
    return self.read_bytes().decode(encoding or "utf-8")

  def write_bytes(self, data: Any) -> int:
    """Puts the object, whole or not at all."""

    def write() -> None:
      with super(Path, self).open("wb") as f:
        f.write(data)

    self._ask("written", write)
    return len(data)

  def write_text(self, data: str, *_: Any, **__: Any) -> int:
    """Puts the object, whole or not at all."""
    return self.write_bytes(data.encode())

  def unlink(self, missing_ok: bool = False) -> None:
    """Removes the object."""
    above = super().unlink
    self._ask("deleted", lambda: above(missing_ok=missing_ok))

  def rmtree(self, missing_ok: bool = False) -> None:
    """Removes the objects below this name."""
    above = super().rmtree
    self._ask("deleted", lambda: above(missing_ok=missing_ok))

  def _ask(
    self, what: str, do: Callable[[], Any], tries: int = retry.TRIES
  ) -> Any:
    """Calls the bucket; errors name the path and their remedy."""
    try:
      return retry.call(do, what=f"{self} could not be {what}", tries=tries)
    except _PLAIN:
      raise
    except Exception as e:
      if str(self) in str(e):
        raise
      raise OSError(
        f"{self} cannot be {what} ({retry.reason(e)}); give this machine's "
        "account the right to read, write, list and delete there, or choose "
        "another --workdir"
      ) from e


def path(p: str | os.PathLike) -> Path:
  """A path on a bucket.

  Raises:
    ValueError: the scheme is not one of those that work.
    ImportError: the extra for it is not installed.
  """
  if isinstance(p, Path):
    return p
  text = os.fspath(p)
  scheme, _, rest = text.partition("://")
  if scheme not in _EXTRAS:
    raise ValueError(
      f"{text} is on no storage that works here: use a local path, or a bucket "
      f"({', '.join(f'{name}://...' for name in _EXTRAS)})"
    )
  if not rest.partition("/")[0]:
    raise ValueError(f"{text} names no bucket: {scheme}://BUCKET/FOLDER")
  _prepare(scheme)
  return Path(text)


@functools.cache
def check(root: Path) -> None:
  """Uses each right that a run needs; once for each root.

  Raises:
    OSError: the bucket is not there, out of reach or lacks a right.
  """
  probe = _Plain(root / f".writable.{uuid.uuid4().hex}")
  try:
    # One try: gcsfs has made its own by then, half a minute of them.
    root._ask("written", lambda: probe.write_bytes(b"\0"), tries=1)
    root._ask("read", probe.read_bytes, tries=1)
    root._ask("deleted", probe.unlink, tries=1)
    root._ask("described", lambda: _describe(root.parts[2]))
  except FileNotFoundError as e:
    raise FileNotFoundError(
      f"--workdir={root}: there is no bucket {root.parts[2]!r}, or this "
      "machine's account may not see it; create it, or correct its name"
    ) from e


def _describe(bucket: str) -> None:
  """Reads what a bucket is, as orbax does before it deletes a checkpoint."""
  from google.cloud import storage  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

  with contextlib.closing(storage.Client()) as client:
    client.get_bucket(bucket, retry=None)  # pyright: ignore[reportArgumentType]


class _Plain(gpath.PosixGPath):
  """The same path without retries."""


@functools.cache
def _prepare(scheme: str) -> None:
  """Settings of the libraries below, made before their first use."""
  module, extra = _EXTRAS[scheme]
  if importlib.util.find_spec(module) is None:
    raise ImportError(
      f"{scheme}:// needs an extra: pip install 'diffmem[{extra}]', or use a "
      "local --workdir"
    )
  from fsspec import config

  # Listings are never cached: tensorstore, orbax and other processes write
  # to the same names.
  settings = config.conf.setdefault("gcs", {})
  settings.setdefault("use_listings_cache", False)
  # One client for all buckets, also where TensorFlow happens to be installed
  # or the bucket has folders of its own.
  os.environ.setdefault("EPATH_USE_TF", "false")
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  # It logs the tracebacks of errors that it also raises.
  logging.getLogger(module).setLevel(logging.CRITICAL + 1)

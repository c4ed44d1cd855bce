# SPDX-License-Identifier: Apache-2.0
"""Files of images from outside: a folder, a zip, a tar, a folder of tars.

Each is a `Files`: names, sizes, and a feed of opened files in any ascending
choice of them. Nothing is ever written to disk and a name is never used as a
path (but those that a folder's own listing gave), so that `../../x.png`,
absolute names and links in an archive are only text. What cannot hold an
image is left out with its reason.
"""

import bisect
import dataclasses
import functools
import gzip
import io
import itertools
import os
import pathlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from diffmem import workdir
from diffmem.data import folders
from diffmem.data.images import MAX_PIXELS
from diffmem.data.images import SUFFIXES as IMAGES

# An image of the most pixels, 16 bits each of four channels, uncompressed.
MAX_BYTES = 8 * MAX_PIXELS + 2**20
TARS = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (".zip", *TARS)

Opener = Callable[[], Any]  # zipfile, gzip and io share no type


@dataclasses.dataclass(frozen=True)
class Files:
  """What an outside source holds, in its order.

  Attributes:
    kind: "folder", "zip", "tar" or "tfds".
    names: of the files, relative, with /; printable text.
    left_out: (name, reason) of what cannot be an image.
    digest: changes when names, sizes or contents do.
    feed: ascending positions in names -> functions that open those files.
    texts: the prompt of each file, where the source itself holds it.
    root: what absolute names of its files start with.
    sharded: whether names start with the tar that they are in.
  """

  kind: str
  names: list[str]
  left_out: list[tuple[str, str]]
  digest: str
  feed: Callable[[Iterable[int]], Iterator[Opener]]
  texts: list[str | None] | None = None
  root: str = ""
  sharded: bool = False


def open_files(path: str) -> Files:
  """Lists a folder or an archive.

  Raises:
    FileNotFoundError: nothing is there.
    ValueError: it is no archive, or a damaged one.
  """
  place = pathlib.Path(path).expanduser()
  if place.is_dir():
    files = _folder(place)
    shards = [x for x in files.names if x.lower().endswith(TARS)]
    if shards and not any(x.lower().endswith(IMAGES) for x in files.names):
      return _sharded(place, files, shards)
    return files
  name = place.name.lower()
  if name.endswith(".zip"):
    return _zip(place)
  return _tar(place) if name.endswith(".tar") else _tar_gz(place)


def _sharded(root: pathlib.Path, files: Files, shards: list[str]) -> Files:
  """A folder of tars, one after another, and whatever else lies there."""
  parts = [open_files(str(root / name)) for name in shards]
  names = [f"{s}/{x}" for s, p in zip(shards, parts, strict=True)
           for x in p.names]  # fmt: skip
  starts = [0, *itertools.accumulate(len(part.names) for part in parts)]

  def feed(wanted: Iterable[int]) -> Iterator[Opener]:
    def shard(i: int) -> int:
      return bisect.bisect_right(starts, i) - 1

    for number, inside in itertools.groupby(wanted, shard):
      yield from parts[number].feed(i - starts[number] for i in inside)

  others = [name for name in files.names if name not in shards]
  return Files(
    "tar",
    names,
    [
      *files.left_out,
      *((name, "is no image by its name") for name in others),
      *((f"{s}/{x}", why) for s, p in zip(shards, parts, strict=True)
        for x, why in p.left_out),
    ],
    workdir.digest([files.digest, *(part.digest for part in parts)]),
    feed,
    sharded=True,
  )  # fmt: skip


class _Listing:
  """Collects entries; a second one of a name is left out."""

  def __init__(self) -> None:
    self.names: list[str] = []
    self.places: list = []
    self.left_out: list[tuple[str, str]] = []
    self._marks: list = []
    self._seen: set[str] = set()

  def add(self, name: str, size: int, mark: object, place: object) -> None:
    """Takes an entry; mark goes into the digest, place is for its reader."""
    shown = folders.printable(name).removeprefix("./")
    self._marks.append([shown, size, mark])
    if shown in self._seen:
      self.left_out.append((shown, "is a second entry of this name"))
    elif size > MAX_BYTES:
      self.left_out.append((shown, f"has {size} bytes: no image is that large"))
    elif folders.is_hidden(pathlib.PurePosixPath(shown)):
      self.left_out.append((shown, "is a hidden file"))
    else:
      self.names.append(shown)
      self.places.append(place)
    self._seen.add(shown)

  def refuse(self, name: str, reason: str) -> None:
    """Leaves out something that is no file."""
    shown = folders.printable(name).removeprefix("./")
    self._marks.append([shown, reason])
    self.left_out.append((shown, reason))

  def files(
    self, kind: str, feed: Callable[[Iterable[int]], Iterator[Opener]]
  ) -> Files:
    """The finished list."""
    digest = workdir.digest(self._marks)
    return Files(kind, self.names, self.left_out, digest, feed)


def _folder(root: pathlib.Path) -> Files:
  found = _Listing()
  paths = sorted(folders.walk(root), key=lambda path: path.as_posix())
  for path in paths:
    name = path.as_posix()
    try:
      about = os.stat(root / path)
    except OSError as e:
      found.refuse(name, f"cannot be read ({e.strerror})")
      continue
    if stat.S_ISREG(about.st_mode):  # opening a pipe would wait for ever
      found.add(name, about.st_size, about.st_mtime_ns, root / path)
    else:
      found.refuse(name, "is no plain file")
  files = found.files("folder", _random(found, lambda path: path.open("rb")))
  return dataclasses.replace(files, root=f"{root.absolute().as_posix()}/")


def _zip(path: pathlib.Path) -> Files:
  try:
    archive = zipfile.ZipFile(path)
  except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as e:
    raise ValueError(
      f"sample.path={path} is not a readable zip file ({_reason(e)})"
    ) from e
  found = _Listing()
  for entry in archive.infolist():
    if entry.is_dir():
      continue
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
      found.refuse(entry.filename, "is a link or a device, not a file")
    elif entry.flag_bits & 1:
      found.refuse(entry.filename, "is encrypted")
    else:
      found.add(entry.filename, entry.file_size, entry.CRC, entry)
  return found.files("zip", _random(found, archive.open))


def _tar(path: pathlib.Path) -> Files:
  found = _Listing()
  with path.open("rb") as f:
    _members(f, path, found)

  def read(place: tuple[int, int]) -> io.BufferedIOBase:
    with path.open("rb") as f:
      return _part(f, place)

  return found.files("tar", _random(found, read))


def _tar_gz(path: pathlib.Path) -> Files:
  """Can only be read from its start, as every feed does."""
  found = _Listing()
  with gzip.open(path) as f:
    _members(f, path, found)

  def feed(wanted: Iterable[int]) -> Iterator[Opener]:
    with gzip.open(path) as f:
      for i in wanted:
        try:
          file = _part(f, found.places[i])
          yield functools.partial(lambda file: file, file)
        except (OSError, EOFError, zlib.error) as e:
          yield functools.partial(_raise, e)

  return found.files("tar", feed)


def _part(f: io.BufferedIOBase, place: tuple[int, int]) -> io.BufferedIOBase:
  offset, size = place
  f.seek(offset)
  return io.BytesIO(f.read(size))


def _raise(error: Exception) -> io.BufferedIOBase:
  raise error


def _members(f: io.BufferedIOBase, path: pathlib.Path, found: _Listing) -> None:
  """Lists a tar by offsets; a damaged one up to where it is damaged."""
  count = 0
  try:
    with tarfile.open(fileobj=_Limited(f), mode="r:") as archive:
      listed: list = vars(archive)["members"]
      while (entry := archive.next()) is not None:
        listed.clear()  # it would keep them all
        count += 1
        if entry.isdir():
          continue
        if not entry.isfile() or entry.issparse():
          found.refuse(entry.name, "is a link or a device, not a file")
        else:
          place = (entry.offset_data, entry.size)
          found.add(entry.name, entry.size, [entry.mtime, *place], place)
      f.seek(archive.offset)
    # tarfile takes anything that is no header for the end.
    block = f.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or 0 < len(block) < tarfile.BLOCKSIZE:
      raise tarfile.ReadError("an entry has no valid header")
  except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as e:
    if not count:
      raise ValueError(
        f"sample.path={path} is not a readable tar file ({_reason(e)})"
      ) from e
    reason = f"is damaged after {count} entries ({_reason(e)}): the rest"
    found.refuse(path.name, f"{reason} of it is lost")


class _Limited(io.RawIOBase):
  """A file whose headers cannot ask for gigabytes of memory."""

  def __init__(self, file: io.BufferedIOBase):
    self._file = file

  def read(self, size: int = -1) -> bytes:
    """At most 16 MiB: only headers are read through this."""
    if not 0 <= size <= 2**24:
      raise tarfile.ReadError(f"a header of {size} bytes")
    return self._file.read(size)

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    """As the file does."""
    return self._file.seek(offset, whence)

  def tell(self) -> int:
    """As the file does."""
    return self._file.tell()


def _random(
  found: _Listing, read: Callable[..., Any]
) -> Callable[[Iterable[int]], Iterator[Opener]]:
  """A feed whose files are opened by whoever calls, in any thread."""

  def feed(wanted: Iterable[int]) -> Iterator[Opener]:
    for i in wanted:
      yield functools.partial(read, found.places[i])

  return feed


def _reason(error: Exception) -> str:
  return " ".join(str(error).split()) or type(error).__name__

# SPDX-License-Identifier: Apache-2.0
"""A workdir: one folder for each stage, each with a meta.json.

Stages meet on disk. `stage` opens a stage's folder for writing: it takes the
lock, refuses a folder that another config made, and writes meta.json at the
start (status "started") and at the end ("finished"). `require` reads the
meta.json of a stage that must have finished.
"""

import contextlib
import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

import diffmem
from diffmem import buckets, lease, lock, processes, retry

# The stage whose command makes the folder.
_COMMANDS = {"data": "train", "captions": "train"}


def path(p: str | os.PathLike) -> epath.Path:
  """A local path, ~ expanded, or one on a bucket (gs://)."""
  return epath.Path(p).expanduser() if is_local(p) else buckets.path(p)


def of(root: str | os.PathLike, data: Mapping[str, Any]) -> epath.Path:
  """The workdir of the model that the config section `data` is about.

  That of shadow model i (data.split.shadow=i) is <root>/shadows/<i>, that of
  super-resolution stage i (data.upsampler=i) <root>/upsamplers/<i>; in it
  every stage finds its folders as elsewhere. Other models have `root`. A root
  that is the model's own folder already is returned as it is.

  Raises:
    ValueError: the root is the folder of another one, or both are asked for.
  """
  root = path(root)
  found = {
    "shadow": data.get("split", {}).get("shadow"),  # given data have no split
    "upsampler": data.get("upsampler"),
  }
  chosen = {name: i for name, i in found.items() if i is not None}
  if len(chosen) > 1:
    raise ValueError(
      f"data.split.shadow={found['shadow']} with data.upsampler="
      f"{found['upsampler']}: shadow models share the upsamplers of the whole "
      "run, give one of the two"
    )
  for name, i in chosen.items():
    if root.parent.name != f"{name}s" or not root.name.isdigit():
      return root / f"{name}s" / str(i)
    if root.name != str(i):
      raise ValueError(
        f"--workdir={root} is that of {name} {root.name}, the config is of "
        f"{name} {i}: give {root.parent.parent}"
      )
  return root


def whole(root: str | os.PathLike) -> epath.Path:
  """The workdir of the whole run, where `root` is that of one model in it."""
  root = path(root)
  parts = ("shadows", "upsamplers")
  inside = root.parent.name in parts and root.name.isdigit()
  return root.parent.parent if inside else root


def is_local(p: str | os.PathLike) -> bool:
  """Whether the path lies on this machine's file system."""
  return "://" not in os.fspath(p)


def write_json(target: str | os.PathLike, value: Any) -> None:
  """Writes JSON whole or not at all; NaN is refused, NumPy values are fine."""
  text = json.dumps(plain(value), indent=2, allow_nan=False) + "\n"
  write_bytes(target, text.encode())


def write_bytes(target: str | os.PathLike, content: bytes) -> None:
  """Writes a file whole or not at all (a temporary file, then a rename).

  Of several processes only process 0 writes it.

  Raises:
    OSError: it cannot be written, or this run lost its lease of a bucket.
  """
  if not processes.leads():
    return
  target = path(target)
  if not is_local(target):
    lease.check()
    target.write_bytes(content)  # an object store puts whole objects
    return
  temporary = f"{os.fspath(target)}.{os.getpid()}.tmp"

  def write() -> None:
    with open(temporary, "wb") as f:
      f.write(content)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, target)

  retry.call(write, what=f"{target} could not be written")


def read_json(source: str | os.PathLike) -> Any:
  """Reads JSON; ValueError names a file that is not."""
  source = path(source)
  text = retry.call(source.read_text, what=f"{source} could not be read")
  try:
    return json.loads(text)
  except ValueError as e:
    raise ValueError(
      f"{source} is not valid JSON ({e}); delete its folder and rerun its stage"
    ) from e


def digest(value: Any) -> str:
  """sha256 of the canonical JSON of plain values."""
  text = json.dumps(plain(value), sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()


class Stage:
  """A stage's folder, open for writing; made by `stage`."""

  def __init__(self, folder: epath.Path, meta: dict, finished: bool):
    self.folder = folder
    self.meta = meta
    self.finished = finished

  def record(self, key: str, value: Any) -> None:
    """Keeps a value for meta.json (counts, hashes), written at the end."""
    self.meta[key] = value


@contextlib.contextmanager
def stage(
  root: str | os.PathLike,
  name: str,
  *,
  config: Mapping[str, Any],
  inputs: Mapping[str, Any] | None = None,
  replace: bool = False,
  needs: int = 0,
) -> Iterator[Stage]:
  """Opens `<root>/<name>` for one run.

  Of several processes, process 0 opens it, takes the lock and writes
  meta.json; the others find what it found, and leave when it has left.

  Args:
    root: the workdir.
    name: the stage.
    config: the plain config sections that decide the stage's results.
    inputs: digests of what it reads (weights, split, bank).
    replace: True where results are cheap to make anew: an earlier run by
      another config is overwritten instead of refused.
    needs: bytes about to be written, checked against the free disk.

  Raises:
    ValueError: the folder was made by another config or from other inputs.
    OSError: it cannot be written, the disk is too full, or it is in use.
  """
  folder = path(root) / name
  _check_disk(path(root), folder, needs)
  opened = closed = None
  if processes.count() > 1:
    opened = processes.event(f"{name} opened")
    closed = processes.event(f"{name} closed")
    if not processes.leads():
      with _followed(folder, _meta(config, inputs), opened, closed) as this:
        yield this
      return
  with lock.hold(folder):
    meta = _meta(config, inputs)
    earlier = folder / "meta.json"
    finished, seconds = False, 0.0
    if earlier.exists():
      old = _read_meta(earlier, "status", "config", "inputs", "seconds", "runs")
      same = _compare(folder, old, meta, replace)
      finished = same and old["status"] == "finished"
      if same:
        seconds = old["seconds"]
        meta["runs"] = old["runs"] + (not finished)
        meta = {**old, **meta} if not finished else old
    this = Stage(folder, meta, finished)
    if not finished:
      write_json(earlier, meta)
    if opened:
      processes.announce(opened, finished)
    start = time.monotonic()
    yield this
    if not finished:
      meta["seconds"] = round(seconds + time.monotonic() - start, 3)
      meta["status"] = "finished"
      meta["hardware"] = hardware()
      write_json(earlier, meta)
    if closed:
      processes.announce(closed)


@contextlib.contextmanager
def _followed(
  folder: epath.Path, meta: dict, opened: str, closed: str
) -> Iterator[Stage]:
  """The stage as process 0 has opened it, for the others."""
  finished = processes.wait(opened, (0,))[0]
  file = folder / "meta.json"
  _compare(folder, _read_meta(file, "config", "inputs"), meta, False)
  yield Stage(folder, meta, finished)
  processes.wait(closed, (0,))


def require(root: str | os.PathLike, name: str) -> dict:
  """The meta.json of a finished stage.

  Raises:
    FileNotFoundError: the stage has not run, or not to its end.
  """
  file = path(root) / name / "meta.json"
  command = _COMMANDS.get(name, name)
  advice = f"run diffmem-{command} with --workdir={root} first"
  if not file.exists():
    raise FileNotFoundError(f"{file.parent} holds no {name} results; {advice}")
  meta = _read_meta(file, "status")
  if meta["status"] != "finished":
    raise FileNotFoundError(
      f"{file.parent} was left unfinished; rerun diffmem-{command} with "
      f"--workdir={root}, it goes on where it stopped"
    )
  return meta


def hardware() -> dict:
  """What this process runs on; devices only where JAX is in use."""
  found = {
    "machine": platform.machine(),
    "cpus": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
    "python": platform.python_version(),
  }
  if "jax" in sys.modules:
    jax = sys.modules["jax"]
    devices = jax.devices()
    found["jax"] = jax.__version__
    found["devices"] = f"{len(devices)} x {devices[0].device_kind}"
  if processes.count() > 1:
    found["processes"] = processes.count()
  return found


def commit() -> str | None:
  """The commit of the checkout that the package is imported from, if any."""
  here = os.path.dirname(os.path.abspath(diffmem.__file__))
  if not os.path.exists(os.path.join(os.path.dirname(here), ".git")):
    return None
  run = subprocess.run(
    ["git", "-C", here, "rev-parse", "HEAD"],
    capture_output=True,
    text=True,
    check=False,
  )
  return run.stdout.strip() or None


def _read_meta(file: epath.Path, *expected: str) -> dict:
  meta = read_json(file)
  if not isinstance(meta, dict) or not meta.keys() >= {*expected}:
    raise ValueError(
      f"{file} is not the record of a stage; use another --workdir, or delete "
      f"{file.parent} to make it anew"
    )
  return meta


def _meta(config, inputs) -> dict:
  now = datetime.datetime.now(datetime.UTC)
  return {
    "status": "started",
    "config": plain(config),
    "inputs": plain(inputs or {}),
    "version": diffmem.__version__,
    "commit": commit(),
    "started": now.isoformat(timespec="seconds"),
    "seconds": 0.0,
    "runs": 1,
  }


def _compare(folder, old: dict, new: dict, replace: bool) -> bool:
  """True if made alike; False if it may be replaced; else an error."""
  for part in ("config", "inputs"):
    found = difference(old[part], new[part])
    if found is None:
      continue
    if replace:
      return False
    key, was, now = found
    what = key if part == "config" else f"its input {key!r}"
    raise ValueError(
      f"{folder} was made with {what} = {was!r}, this run has {now!r}; use "
      f"another --workdir, or delete {folder} to make it anew"
    )
  return True


def difference(
  old: Any, new: Any, prefix: str = ""
) -> tuple[str, Any, Any] | None:
  """The first key that differs, dotted, with both values; None if none does."""
  if isinstance(old, dict) and isinstance(new, dict):
    for key in [*old, *(k for k in new if k not in old)]:
      found = difference(
        old.get(key, "(absent)"), new.get(key, "(absent)"), f"{prefix}{key}."
      )
      if found is not None:
        return found
    return None
  return None if old == new else (prefix.rstrip("."), old, new)


def _check_disk(root: epath.Path, folder: epath.Path, needs: int) -> None:
  if isinstance(root, buckets.Path):
    buckets.check(root)
    return
  if root.exists() and not root.is_dir():
    raise NotADirectoryError(f"--workdir={root} is a file, not a folder")
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise OSError(
      f"cannot make {folder} ({e.strerror or e}); choose a writable --workdir"
    ) from e
  probe = folder / f".writable.{os.getpid()}"
  try:
    probe.write_bytes(b"\0" * 4096)
    probe.unlink()
  except OSError as e:
    raise OSError(
      f"cannot write to {folder} ({e.strerror or e}); free space or choose "
      "a writable --workdir"
    ) from e
  free = shutil.disk_usage(folder).free
  if free < needs:
    raise OSError(
      f"{folder} needs {needs / 2**20:,.0f} MiB, its disk has "
      f"{free / 2**20:,.0f} MiB free; free space or choose another --workdir"
    )


def plain(value: Any) -> Any:
  """NumPy values, tuples and paths as JSON types; other types raise."""
  if isinstance(value, Mapping):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [plain(v) for v in value]
  if isinstance(value, np.ndarray):
    return plain(value.tolist())
  if isinstance(value, np.generic):
    return value.item()
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  return value

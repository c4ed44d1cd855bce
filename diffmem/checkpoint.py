# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: orbax (v1 API), asynchronous, always restored by shape.

A checkpoint appears whole or not at all: orbax writes to a temporary folder
and renames it, or on a bucket writes the object `commit_success.txt` last. A
save that fails with an error that may pass is tried again: at once if it is
the last, else by the save after it. A checkpoint has named parts ("ema",
"state"), so that a sampler reads the weights without the optimiser; the config
that made it travels inside as custom metadata.
"""

import logging
import os
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from diffmem import lease, retry, workdir

_log = logging.getLogger(__name__)
_ADVICE = "; free space or fix the folder and rerun: what is whole is kept"


class Checkpointer:
  """The checkpoints of one training run.

  Args:
    folder: where they lie, one sub-folder a step.
    keep: how many of the latest are kept.
    clean: remove what a killed run left half-written; readers leave it.
  """

  def __init__(
    self, folder: str | os.PathLike, *, keep: int = 2, clean: bool = True
  ):
    self.folder = workdir.path(folder)
    if workdir.is_local(folder):
      self.folder = self.folder.absolute()  # orbax takes no other
    self.folder.mkdir(parents=True, exist_ok=True)
    self._checkpointer = retry.call(
      lambda: ocp.training.Checkpointer(
        self.folder,
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),  # pyright: ignore[reportArgumentType]
        cleanup_tmp_directories=clean,
      ),
      what=f"{self.folder} could not be opened",
    )
    self._last: tuple[int, dict[str, Any], dict] | None = None

  def latest(self) -> int | None:
    """The last step that was saved whole."""
    found = self._checkpointer.latest
    return None if found is None else found.step

  def steps(self) -> list[int]:
    """The steps that were saved whole, ascending."""
    return sorted(found.step for found in self._checkpointer.checkpoints)

  def save(self, step: int, parts: dict[str, Any], *, meta: dict) -> None:
    """Starts saving; returns once the arrays may be overwritten.

    Raises:
      OSError: this or the save before it could not be written.
    """
    if not workdir.is_local(self.folder):
      lease.check()
    try:
      self._checkpointer.wait()
    except Exception as e:
      text = self._failed("written", self._last and self._last[0], e)
      if not retry.passing(e):
        raise OSError(text + _ADVICE) from e
      _log.warning("%s; that of step %d is saved instead", text, step)
    self._last = step, parts, meta
    try:
      retry.call(
        self._start, what=f"checkpoint {self.folder / str(step)} failed"
      )
    except Exception as e:
      raise OSError(self._failed("written", step, e) + _ADVICE) from e

  def _start(self) -> None:
    assert self._last is not None
    step, parts, meta = self._last
    self._checkpointer.save_checkpointables_async(
      step, parts, force=True, custom_metadata=meta
    )

  def restore(self, abstract: dict[str, Any], step: int) -> dict[str, Any]:
    """Reads parts of a checkpoint.

    Args:
      abstract: part -> tree of jax.ShapeDtypeStruct (see `abstract`); parts
        left out are not read.
      step: which one.

    Raises:
      ValueError: it is damaged, or its shapes are others.
    """
    try:
      return retry.call(
        lambda: self._checkpointer.load_checkpointables(step, abstract),
        what=f"checkpoint {self.folder / str(step)} failed",
      )
    except Exception as e:
      raise ValueError(
        self._failed("read", step, e)
        + "; delete that folder to fall back to the one before it"
      ) from e

  def wait(self) -> None:
    """Returns when everything is on disk; the last save is not donated yet.

    Raises:
      OSError: the last save could not be written.
    """
    again = False

    def finish() -> None:
      nonlocal again
      if again:
        self._start()
      again = True
      self._checkpointer.wait()

    step = self._last and self._last[0]
    try:
      retry.call(finish, what=f"checkpoint {self.folder / str(step)} failed")
    except Exception as e:
      raise OSError(self._failed("written", step, e) + _ADVICE) from e
    self._last = None

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *_) -> None:
    self._checkpointer.close()

  def _failed(self, what: str, step: int | None, e: Exception) -> str:
    reason = (str(e).strip().splitlines() or [""])[0][:200]
    return (
      f"checkpoint {self.folder / str(step)} cannot be {what} "
      f"({type(e).__name__}: {reason})"
    )


def abstract(state: Any, sharding: jax.sharding.Sharding) -> Any:
  """Shapes and dtypes of a state, to be restored with one sharding."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )

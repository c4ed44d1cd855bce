# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: orbax (v1 API), asynchronous, always restored by shape.

A checkpoint appears whole or not at all: orbax writes to a temporary folder
and renames it. It has named parts ("ema", "state"), so that a sampler reads
the weights without the optimiser; the config that made it travels inside as
custom metadata.
"""

import os
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from diffmem import workdir

_ADVICE = "; free space or fix the folder and rerun: what is whole is kept"


class Checkpointer:
  """The checkpoints of one training run.

  Args:
    folder: where they lie, one sub-folder a step.
    keep: how many of the latest are kept.
  """

  def __init__(self, folder: str | os.PathLike, *, keep: int = 2):
    self.folder = workdir.path(folder)
    if workdir.is_local(folder):
      self.folder = self.folder.absolute()  # orbax takes no other
    self.folder.mkdir(parents=True, exist_ok=True)
    self._checkpointer = ocp.training.Checkpointer(
      self.folder,
      preservation_policy=ocp.training.preservation_policies.LatestN(keep),  # pyright: ignore[reportArgumentType]
      cleanup_tmp_directories=True,
    )

  def latest(self) -> int | None:
    """The last step that was saved whole."""
    found = self._checkpointer.latest
    return None if found is None else found.step

  def save(self, step: int, parts: dict[str, Any], *, meta: dict) -> None:
    """Starts saving; returns once the arrays may be overwritten.

    Raises:
      OSError: this or the save before it could not be written.
    """
    try:
      self._checkpointer.wait()
      self._checkpointer.save_checkpointables_async(
        step, parts, force=True, custom_metadata=meta
      )
    except Exception as e:
      raise OSError(self._failed("written", step, e) + _ADVICE) from e

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
      return self._checkpointer.load_checkpointables(step, abstract)
    except Exception as e:
      raise ValueError(
        self._failed("read", step, e)
        + "; delete that folder to fall back to the one before it"
      ) from e

  def wait(self) -> None:
    """Returns when everything is on disk."""
    try:
      self._checkpointer.wait()
    except Exception as e:
      raise OSError(self._failed("written", self.latest(), e) + _ADVICE) from e

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

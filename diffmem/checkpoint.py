# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: orbax (v1 API), asynchronous, always restored by shape.

A checkpoint appears whole or not at all: orbax writes to a temporary folder
and renames it. The config that made it travels inside as custom metadata.
"""

from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from diffmem import workdir


class Checkpointer:
  """The checkpoints of one training run.

  Args:
    folder: where they lie, one sub-folder a step.
    keep: how many of the latest are kept.
  """

  def __init__(self, folder: str, *, keep: int = 2):
    folder = workdir.path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    self._folder = folder
    self._checkpointer = ocp.training.Checkpointer(
      folder,
      preservation_policy=ocp.training.preservation_policies.LatestN(keep),
      cleanup_tmp_directories=True,
    )

  def latest(self) -> int | None:
    """The last step that was saved whole."""
    found = self._checkpointer.latest
    return None if found is None else found.step

  def save(self, step: int, state: Any, *, meta: dict) -> None:
    """Starts saving; returns once the arrays may be overwritten."""
    self._checkpointer.save_async(
      step, state, force=True, custom_metadata=meta
    )

  def restore(self, abstract: Any, step: int | None = None) -> Any:
    """Reads a checkpoint into the shapes and shardings of `abstract`.

    Args:
      abstract: a tree of jax.ShapeDtypeStruct (see `abstract`).
      step: None for the latest.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, or its shapes are others.
    """
    step = self.latest() if step is None else step
    if step is None:
      raise FileNotFoundError(f"{self._folder} holds no checkpoint")
    try:
      return self._checkpointer.load(step, abstract)
    except Exception as e:
      reason = str(e).strip().splitlines()[0][:200] if str(e).strip() else ""
      raise ValueError(
        f"checkpoint {self._folder / str(step)} cannot be read "
        f"({type(e).__name__}: {reason}); delete that folder to fall back to "
        "the one before it"
      ) from e

  def wait(self) -> None:
    self._checkpointer.wait()

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *_) -> None:
    self._checkpointer.close()


def abstract(state: Any, sharding: jax.sharding.Sharding) -> Any:
  """Shapes and dtypes of a state, to be restored with one sharding."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )

# SPDX-License-Identifier: Apache-2.0
"""Devices: one mesh axis, "data"; what is replicated, what is sharded."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def data_mesh() -> Mesh:
  """All devices of all processes along one axis."""
  return Mesh(np.asarray(jax.devices()), (AXIS,))


def local_mesh(count: int | None = None) -> Mesh:
  """The (first `count`) devices of this process along one axis."""
  return Mesh(np.asarray(jax.local_devices()[:count]), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on each device."""
  return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
  """Sharding of the leading axis."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Places one copy of every array on each device, once, before a loop."""
  return jax.device_put(tree, replicated(mesh))


def shard(tree: Any, mesh: Mesh) -> Any:
  """Splits the leading axis of every array over the devices.

  Raises:
    ValueError: the leading axis is not divisible by the number of devices.
  """
  for leaf in jax.tree.leaves(tree):
    if leaf.shape[0] % mesh.size:
      raise ValueError(
        f"a batch of {leaf.shape[0]} does not divide over {mesh.size} "
        f"devices; use a multiple of {mesh.size}"
      )
  return jax.device_put(tree, sharded(mesh))

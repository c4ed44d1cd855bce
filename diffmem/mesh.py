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
  if mesh.is_multi_process:  # each process places the copies of its own
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
  return jax.device_put(tree, replicated(mesh))


def local(tree: Any) -> Any:
  """The first copy that this process has of every replicated array."""
  return jax.tree.map(lambda x: x.addressable_data(0), tree)


def shard(tree: Any, mesh: Mesh) -> Any:
  """Splits the leading axis of every array over the devices.

  Every process has the whole arrays, and places its own rows.

  Raises:
    ValueError: the leading axis is not divisible by the number of devices.
  """
  for leaf in jax.tree.leaves(tree):
    if leaf.shape[0] % mesh.size:
      raise ValueError(
        f"a batch of {leaf.shape[0]} does not divide over {mesh.size} "
        f"devices; use a multiple of {mesh.size}"
      )
  if not mesh.is_multi_process:
    return jax.device_put(tree, sharded(mesh))

  def place(x: np.ndarray) -> jax.Array:
    return jax.make_array_from_callback(
      x.shape, sharded(mesh), lambda index: x[index]
    )

  return jax.tree.map(place, tree)

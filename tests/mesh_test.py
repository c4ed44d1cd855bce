# SPDX-License-Identifier: Apache-2.0
"""Placing arrays on eight devices."""

import jax
import numpy as np
import pytest

from diffmem import mesh


def test_shards_hold_rows_and_replicas_hold_all():
  x = np.arange(16.0).reshape(16, 1)
  devices = mesh.data_mesh()
  assert devices.size == jax.device_count() == 8
  rows = mesh.shard({"x": x}, devices)["x"]
  assert [s.data.shape for s in rows.addressable_shards] == [(2, 1)] * 8
  whole = mesh.replicate({"x": x}, devices)["x"]
  assert [s.data.shape for s in whole.addressable_shards] == [(16, 1)] * 8
  assert (np.asarray(rows) == x).all()


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match=r"batch of 12 .* over 8 devices"):
    mesh.shard(np.zeros((12, 2)), mesh.data_mesh())


def test_a_local_mesh_of_some_devices():
  assert mesh.local_mesh(3).size == 3
  assert mesh.local_mesh().size == 8

# SPDX-License-Identifier: Apache-2.0
"""Random keys: named streams, and one key per sample id.

A sample is a function of its id: its key is fold_in(key, id), never a split
of a batch key, so that noise bits are the same for any batch size, order,
number of devices or processes.
"""

import zlib

import jax
import jax.numpy as jnp

from diffmem.arrays import AnyArray, Int, Key


def root(seed: int) -> Key[jax.Array, ""]:
  """The key from which everything random in one run is derived."""
  return jax.random.key(seed)


def stream(
  key: Key[jax.Array, ""], name: str, *ints: int | Int[AnyArray, ""]
) -> Key[jax.Array, ""]:
  """An independent key for a named purpose, and a step or draw within it."""
  key = jax.random.fold_in(key, zlib.crc32(name.encode()))
  for i in ints:
    key = jax.random.fold_in(key, i)
  return key


def per_id(
  key: Key[jax.Array, ""], ids: Int[AnyArray, " b"]
) -> Key[jax.Array, " b"]:
  """One key for each id; ids are below 2**31."""
  ids = jnp.asarray(ids)
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)

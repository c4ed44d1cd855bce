# SPDX-License-Identifier: Apache-2.0
"""A key is a function of names and ids, never of batches."""

import jax
import numpy as np

from diffmem import keys


def _bits(key):
  return np.asarray(jax.random.bits(key, (4,)))


def test_streams_differ_by_name_and_step_and_repeat():
  root = keys.root(0)
  streams = {
    name: _bits(keys.stream(root, *name)).tobytes()
    for name in [("a",), ("b",), ("a", 0), ("a", 1), ("a", 1, 0)]
  }
  assert len(set(streams.values())) == len(streams)
  again = _bits(keys.stream(keys.root(0), "a", 1))
  assert again.tobytes() == streams[("a", 1)]
  other = _bits(keys.stream(keys.root(1), "a", 1))
  assert other.tobytes() != streams[("a", 1)]


def test_the_key_of_an_id_knows_no_batch():
  root = keys.stream(keys.root(0), "sample")
  draw = jax.vmap(lambda key: jax.random.bits(key, (4,)))
  whole = np.asarray(draw(keys.per_id(root, np.arange(8, dtype=np.int32))))
  some = np.asarray(draw(keys.per_id(root, np.array([5, 2], np.int32))))
  assert (some == whole[[5, 2]]).all()
  assert len(np.unique(whole, axis=0)) == 8
  assert (whole[3] == _bits(jax.random.fold_in(root, 3))).all()

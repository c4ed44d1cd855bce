# SPDX-License-Identifier: Apache-2.0
"""Host-side random streams: one for each purpose, the same everywhere.

Splits and batches are drawn in NumPy. A stream is a Philox counter keyed by
sha256 of (seed, name, ints), so that streams with different names are
independent, and only raw 64-bit words are used: NumPy promises these for
ever, while the results of `Generator.permutation` may change by version.
"""

import hashlib
import json

import numpy as np
from jaxtyping import Int, UInt64


def words(
  count: int, seed: int, name: str, *ints: int
) -> UInt64[np.ndarray, " b"]:
  """The first `count` words of the stream (seed, name, ints)."""
  label = json.dumps([int(seed), name, *map(int, ints)])
  key = hashlib.sha256(label.encode()).digest()[:16]
  philox = np.random.Philox(key=int.from_bytes(key, "little"))
  return philox.random_raw(count)


def permutation(
  count: int, seed: int, name: str, *ints: int
) -> Int[np.ndarray, " b"]:
  """A uniform random order of 0..count-1."""
  return np.argsort(words(count, seed, name, *ints), kind="stable")


def coins(
  count: int, seed: int, name: str, *ints: int
) -> UInt64[np.ndarray, " b"]:
  """Fair coins, 0 or 1."""
  return words(count, seed, name, *ints) >> np.uint64(63)


def derived(seed: int, name: str, *ints: int) -> int:
  """A seed of its own for a named part of an experiment."""
  return int(words(1, seed, name, *ints)[0])

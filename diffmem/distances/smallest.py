# SPDX-License-Identifier: Apache-2.0
"""The k smallest keys of every query, kept while candidates stream in.

A key orders candidates whole: value << id_bits | id, so that equal values go
to the lower id. Two ways, chosen per backend and equal in result:

host    `Smallest`. Keys that may enter are appended to a buffer of 3 k; when
        one is full, all are cut to their k smallest, and the k-th becomes the
        bound that later candidates must undercut. With references in no
        order, about k (1 + 2 log_3(m / tile)) of m are ever looked at.
device  `smallest`. The k smallest of a row lie in the k groups of columns with
        the smallest minima (each holds one at most as large), so that only
        those groups are sorted. Columns in ascending id keep ties right.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import Bool, Int

NONE = np.iinfo(np.int64).max  # the key of nothing
GROUP = 32


class Smallest:
  """The k smallest keys of each of n rows.

  bound: int64 [n], the k-th smallest that is known; NONE before k are known.
  """

  def __init__(self, n: int, k: int):
    self._n, self.k, self._width = n, k, k + max(2 * k, 64)
    self._keys = np.full((n, self._width), NONE, np.int64)
    self._fill = np.zeros(n, np.int64)
    self.bound = np.full(n, NONE, np.int64)

  @property
  def full(self) -> bool:
    """Whether every row has a bound."""
    return bool(self.bound.max() < NONE)

  def add(self, row: Int[np.ndarray, " c"], keys: Int[np.ndarray, " c"]):
    """Candidates: their rows, ascending, and their keys."""
    counts = np.bincount(row, minlength=self._n)
    if np.max(self._fill + counts) > self._width:
      self._cut()
      keep = np.flatnonzero(keys < self.bound[row])
      row, keys = row[keep], keys[keep]
      counts = np.bincount(row, minlength=self._n)
      missing = np.max(self._fill + counts) - self._width
      if missing > 0:  # a burst: wider until the next cut
        more = np.full((self._n, missing), NONE, np.int64)
        self._keys = np.concatenate([self._keys, more], axis=1)
    first = np.cumsum(counts) - counts
    free = np.arange(self._n) * self._keys.shape[1] + self._fill
    place = np.repeat(free - first, counts)
    place += np.arange(len(place))
    self._keys.reshape(-1)[place] = keys
    self._fill += counts

  def add_all(self, keys: Int[np.ndarray, "n j"]):
    """Every key of a tile: for the first ones, and where most may enter."""
    used = self._keys[:, : self._fill.max()]
    self._keys = np.concatenate([used, keys], axis=1)
    self._cut()

  def result(self) -> Int[np.ndarray, "n k"]:
    """The keys, ascending; NONE where there were fewer than k."""
    self._cut()
    return np.sort(self._keys[:, : self.k], axis=1)

  def _cut(self) -> None:
    """Keeps the k smallest of each row, and only their part of the buffer."""
    k = self.k
    if self._keys.shape[1] >= k:  # of k keys too the last must be the largest
      self._keys.partition(k - 1, axis=1)
    if self._keys.shape[1] == self._width:
      self._keys[:, k:] = NONE
    else:
      kept = self._keys[:, :k]
      self._keys = np.full((self._n, self._width), NONE, np.int64)
      self._keys[:, : kept.shape[1]] = kept
    self.bound = self._keys[:, k - 1].copy()
    if self.full:
      self._fill = np.full(self._n, k)
    else:
      self._fill = np.count_nonzero(self._keys < NONE, axis=1)


def where(mask: Bool[np.ndarray, "n m"]) -> tuple[np.ndarray, np.ndarray]:
  """(rows, columns) that are set, by rows; `np.nonzero` is slower in 2-D."""
  m = mask.shape[1]
  flat = np.flatnonzero(mask)
  row = flat // m
  return row, flat - row * m


def smallest(
  values: Int[jax.Array, "n m"], k: int
) -> tuple[Int[jax.Array, "n k"], Int[jax.Array, "n k"]]:
  """(values, columns) of the k <= m smallest of each row, ties to the left."""
  n, m = values.shape
  if m % GROUP or m < 4 * k * GROUP // 3:
    found, column = jax.lax.top_k(-values, k)
    return -found, column
  groups = values.reshape(n, m // GROUP, GROUP)
  _, chosen = jax.lax.top_k(-groups.min(axis=2), k)
  chosen = jnp.sort(chosen, axis=1)  # ascending id again
  inside = jnp.take_along_axis(groups, chosen[:, :, None], axis=1)
  found, place = jax.lax.top_k(-inside.reshape(n, k * GROUP), k)
  group = jnp.take_along_axis(chosen, place // GROUP, axis=1)
  return -found, group * GROUP + place % GROUP

# SPDX-License-Identifier: Apache-2.0
"""Good cliques without proof: greedy growth, then a walk of exchanges.

Where the search that proves ends with its budget, its answer is at least as
good as the best of these; where it does not, it starts from a good bound.
"""

import numpy as np

from diffmem.arrays import Bool, Float

TABU = 10  # steps


def climb(
  joined: Bool[np.ndarray, "k k"],
  lengths: Float[np.ndarray, "k k"],
  start: int,
  steps: int,
) -> list[int]:
  """The best clique on a walk of additions and exchanges of one node.

  joined: whether there is an edge; lengths: of the edges, 0 elsewhere; start:
  the node to grow the first clique from, which may leave it again. What was
  put out stays out for some steps: the walk leaves local optima.
  """
  inside = _grow(joined, start)
  far, lacks = lengths[inside].sum(axis=0), inside.sum()
  lacks = lacks - joined[inside].sum(axis=0)
  total = far[inside].sum() / 2
  found, until = (inside.sum(), -total, inside.copy()), np.zeros(len(far))
  for step in range(steps):
    ready = np.flatnonzero(~inside & (lacks <= 1) & (until <= step))
    if not len(ready):
      break
    room = ready[lacks[ready] == 0]
    v = room[0] if len(room) else -1
    if v < 0:
      out = np.argmax(~joined[ready] & inside, axis=1)
      best = np.argmin(far[ready] - far[out])
      v, u = ready[best], out[best]
      total, far = total - far[u], far - lengths[u]
      lacks = lacks - ~joined[u]
      inside[u], until[u] = False, step + TABU
    total, far = total + far[v], far + lengths[v]
    lacks, inside[v] = lacks + ~joined[v], True
    if (size := inside.sum(), -total) > found[:2]:
      found = size, -total, inside.copy()
  return np.flatnonzero(found[2]).tolist()


def _grow(
  joined: Bool[np.ndarray, "k k"], start: int
) -> Bool[np.ndarray, " k"]:
  """A clique from a node on: always the free node that keeps most free."""
  inside = np.zeros(len(joined), bool)
  inside[start], free = True, joined[start].copy()
  while free.any():
    degree = np.where(free, joined[:, free].sum(axis=1), -1)
    take = degree == free.sum() - 1
    take[np.argmax(degree)] = True
    inside |= take
    free &= joined[:, take].all(axis=1)
  return inside

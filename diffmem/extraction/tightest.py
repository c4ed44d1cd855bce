# SPDX-License-Identifier: Apache-2.0
"""The smallest edge at which some images hold a clique of m.

  tightest = min over m of the images of the largest distance among them

The m - 1 images nearest to any image are a clique at their diameter, which
bounds it from above; below the smallest distance to an (m - 1)-th neighbour
there is none. In between, the lengths of edges are bisected; a search in the
(m - 1)-core of each graph (`clique_search`) stops at the first clique.
"""

import math

import numpy as np

from diffmem.arrays import Bool, Float, Int
from diffmem.extraction.clique_search import Part, Search

BUDGET = 30_000  # units of work for each edge that is tried
STARTS = 16  # images whose surroundings bound the tightest clique


def tightest(
  between: Float[np.ndarray, "n n"], minimum: int, *, budget: int = BUDGET
) -> tuple[float, bool]:
  """(the smallest edge with a clique of `minimum`, whether it is proven).

  between: all distances. inf where there are fewer images. Where a search
  ends with its budget, the value is the smallest edge that was found to have
  a clique.
  """
  n = len(between)
  if n < minimum:
    return math.inf, True
  apart = between.copy()
  np.fill_diagonal(apart, -1)  # an image comes first among its own neighbours
  near = np.argpartition(apart, minimum - 1, axis=1)[:, :minimum]
  reach = np.take_along_axis(apart, near, axis=1).max(axis=1)
  balls = near[np.argsort(reach, kind="stable")[:STARTS]]
  top = min(float(apart[np.ix_(ball, ball)].max()) for ball in balls)
  values = np.unique(apart[(apart >= reach.min()) & (apart <= top)])
  low, high, proven = 0, len(values) - 1, True  # values[high] == top
  while low < high:
    middle = (low + high) // 2
    found, decided = holds(apart, float(values[middle]), minimum, budget)
    if found is None:
      proven &= decided
      low = middle + 1
    else:
      most = apart[np.ix_(found, found)].max()
      high = max(low, int(np.searchsorted(values, most)))
  return float(values[high]), bool(proven)


def holds(
  apart: Float[np.ndarray, "n n"], edge: float, minimum: int, budget: int
) -> tuple[Int[np.ndarray, " k"] | None, bool]:
  """(a clique of at least `minimum` nodes or None, whether that is certain).

  apart: distances, -1 on the diagonal.
  """
  joined = apart <= edge
  np.fill_diagonal(joined, False)
  nodes = core(joined, minimum - 1)
  if len(nodes) < minimum:
    return None, True
  inside = np.ix_(nodes, nodes)
  part = Part(nodes, np.where(joined[inside], apart[inside], np.inf))
  search = Search(minimum, budget)
  stack = [part.root()]
  while stack and search.work < budget:
    stack += search.expand(part, stack.pop())
    if search.best:
      return np.array(search.best), True
  return None, not stack


def core(joined: Bool[np.ndarray, "n n"], degree: int) -> Int[np.ndarray, " k"]:
  """What is left when nodes of lower degree go, until none does."""
  nodes = np.arange(len(joined))
  while len(nodes):
    kept = joined[np.ix_(nodes, nodes)].sum(axis=1) >= degree
    if kept.all():
      break
    nodes = nodes[kept]
  return nodes

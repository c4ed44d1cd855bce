# SPDX-License-Identifier: Apache-2.0
"""The best clique of a graph of distances, exact where it can be.

Nodes are images, an edge joins two at distance <= threshold. The best clique
C is the largest, then the one of the smallest mean distance

  mean(C) = sum over pairs i < j of C of w_ij / (|C| (|C| - 1) / 2),

then the one of lower ids. Its medoid is the member nearest to the others on
average. (Carlini et al., arXiv 2301.13188, section 4.2: cliques of 10 among
500 generations of a prompt.) No clique of m has nodes outside the (m - 1)-core
or in two components; `clique_search` does the rest under a budget.
"""

import dataclasses
import math
from collections.abc import Iterator

import networkx as nx
import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

from diffmem.arrays import AnyArray, Bool, Float, Int
from diffmem.extraction.clique_search import Part, Search

BUDGET = 2_500_000  # one to two seconds
DENSE = 1024  # nodes: larger components are searched node by node
CLIMBS = 8  # starts of the local search in a part
LARGEST = 4096  # nodes that are searched at once; of more, the first


@dataclasses.dataclass(frozen=True)
class Clique:
  """ids ascending [k]; mean distance of its pairs; medoid: one of the ids."""

  ids: Int[np.ndarray, " k"]
  mean: float
  medoid: int

  @property
  def size(self) -> int:
    return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Answer:
  """What the search found.

  clique: the best one of at least `minimum` nodes that was found, or None;
  bound: no clique has more nodes (below `minimum`: there is none);
  exact: nothing is better than `clique`, and None means that there is none;
  otherwise the budget ended first, and None leaves it undecided;
  work: spent, in units that are the same on every machine.
  """

  clique: Clique | None
  bound: int
  exact: bool
  work: int

  @property
  def largest(self) -> bool:
    """Whether no clique is larger, even if one as large may be tighter."""
    return self.clique is not None and self.clique.size == self.bound


def best_clique(
  distances: Float[AnyArray, "n n"],
  threshold: float,
  minimum: int,
  *,
  ids: Int[AnyArray, " n"] | None = None,
  budget: int = BUDGET,
) -> Answer:
  """The best clique of at least `minimum` images, from all their distances.

  distances: symmetric, the diagonal is not looked at; ids: of the rows (their
  numbers); budget: units of work. The answer does not depend on the order of
  the rows. Raises ValueError for what is not a matrix of distances.
  """
  distances = np.asarray(distances, np.float64)
  n = len(distances)
  if distances.shape != (n, n):
    raise ValueError(f"distances {distances.shape}, expected a square matrix")
  known = np.arange(n) if ids is None else np.asarray(ids)
  if known.shape != (n,):
    raise ValueError(f"ids {known.shape}, expected {n}: one for each row")
  off = ~np.eye(n, dtype=bool)
  _refuse("distances", distances, np.isnan(distances) & off, "a number")
  _refuse("distances", distances, (distances < 0) & off, "0 or more")
  odd = (distances != distances.T) & off
  _refuse("distances", distances, odd, "a symmetric matrix")
  pairs = np.argwhere(np.triu((distances <= threshold) & off))
  lengths = distances[pairs[:, 0], pairs[:, 1]]
  return best_clique_of_edges(
    known[pairs], lengths, threshold, minimum, ids=known, budget=budget
  )


def best_clique_of_edges(
  edges: Int[AnyArray, "e 2"],
  lengths: Float[AnyArray, " e"],
  threshold: float,
  minimum: int,
  *,
  ids: Int[AnyArray, " n"] | None = None,
  budget: int = BUDGET,
) -> Answer:
  """The best clique, from the sparse edges of a self-join.

  edges: pairs of ids, each once in either order; ids: all that may occur
  (those of the edges). Raises ValueError for edges that make no graph.
  """
  edges, lengths = np.asarray(edges), np.asarray(lengths, np.float64)
  if edges.shape != (len(lengths), 2):
    expected = f"({len(lengths)}, 2): one row for each length"
    raise ValueError(f"edges {edges.shape}, expected {expected}")
  if not 0 <= threshold < math.inf:
    raise ValueError(f"threshold = {threshold}, expected one such as 0.1")
  if minimum < 2:
    raise ValueError(f"minimum = {minimum}, expected a clique of at least 2")
  if budget < 0:
    raise ValueError(f"budget = {budget}, expected 0 or more units of work")
  known, count = np.unique(edges if ids is None else ids, return_counts=True)
  if ids is not None and (count > 1).any():
    raise ValueError(f"ids hold {known[count > 1][0]} twice, expected it once")
  _refuse("lengths", lengths, np.isnan(lengths), "a number")
  _refuse("lengths", lengths, lengths < 0, "0 or more")
  _refuse("edges", edges, edges[:, 0] == edges[:, 1], "two different ids")
  unknown = ~np.asarray(np.isin(edges, known)).all(axis=1)
  _refuse("edges", edges, np.asarray(unknown), "known ids")
  rows = np.sort(np.searchsorted(known, edges), axis=1)
  _, first = np.unique(rows @ [len(known), 1], return_index=True)
  again = np.ones(len(rows), bool)
  again[first] = False
  _refuse("edges", edges, again, "each pair once")
  near = lengths <= threshold
  return _answer(known, rows[near], lengths[near], minimum, budget)


def _refuse(
  name: str,
  values: Float[np.ndarray, "..."] | Int[np.ndarray, "..."],
  bad: Bool[np.ndarray, "..."],
  expected: str,
) -> None:
  """ValueError naming the first bad entry."""
  if bad.any():
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    where = ", ".join(str(i) for i in at)
    raise ValueError(f"{name}[{where}] = {values[at]}, expected {expected}")


def _answer(
  ids: Int[np.ndarray, " n"],
  rows: Int[np.ndarray, "e 2"],
  lengths: Float[np.ndarray, " e"],
  minimum: int,
  budget: int,
) -> Answer:
  """Searches the parts of a checked graph."""
  both = np.concatenate([rows, rows[:, ::-1]]).T
  twice = np.concatenate([lengths, lengths])
  graph = sp.csr_array((twice, (both[0], both[1])), shape=(len(ids),) * 2)
  search = Search(minimum, budget)
  for nodes, climbs in _parts(graph, search):
    search.run(Part(nodes, _dense(graph, nodes)), climbs)
  exact = search.bound < search.size
  if not search.best:
    bound = min(minimum - 1, len(ids)) if exact else search.bound
    return Answer(None, bound, exact, search.work)
  chosen = np.array(search.best)
  inside = _dense(graph, chosen)
  np.fill_diagonal(inside, 0)
  medoid = int(np.argmin([math.fsum(row) for row in inside]))
  mean = search.total / math.comb(len(chosen), 2)
  clique = Clique(ids[chosen].astype(np.int64), mean, int(ids[chosen[medoid]]))
  return Answer(clique, max(search.bound, clique.size), exact, search.work)


def _dense(
  graph: sp.csr_array, nodes: Int[np.ndarray, " k"]
) -> Float[np.ndarray, "k k"]:
  """Distances within some nodes; inf where there is no edge."""
  dense = np.full((len(nodes),) * 2, np.inf)
  inside = sp.coo_array(graph[np.ix_(nodes, nodes)])
  dense[inside.coords] = inside.data
  return dense


def _core(
  joined: sp.csr_array, nodes: Int[np.ndarray, " j"], degree: int
) -> Int[np.ndarray, " i"]:
  """What is left of `nodes` when those of lower degree go, until none does."""
  alive = np.zeros(len(joined.indptr) - 1, np.int64)
  alive[nodes] = 1
  while True:
    kept = alive * (joined @ alive >= degree)
    if (kept == alive).all():
      return np.flatnonzero(alive)
    alive = kept


def _parts(
  graph: sp.csr_array, search: Search
) -> Iterator[tuple[Int[np.ndarray, " k"], int]]:
  """Sets of nodes, and climbs; every clique that could be best lies in one."""
  joined = graph.copy()
  joined.data = np.ones(len(joined.data), np.int64)
  nodes = _core(joined, np.arange(joined.shape[0]), search.size - 1)
  _, label = csgraph.connected_components(joined[nodes][:, nodes])
  order = np.argsort(label, kind="stable")
  starts = np.flatnonzero(np.diff(label[order], prepend=-1))
  groups = np.split(nodes[order], starts[1:]) if len(nodes) else []
  for group in sorted(groups, key=len):  # small ones first: they are cheap
    if len(group) < search.size:
      continue
    group = _core(joined, group, search.size - 1)
    if len(group) <= DENSE:
      yield group, CLIMBS if search.work < search.budget else 1
    else:
      yield from _split(joined, group, search)


def _split(
  joined: sp.csr_array, group: Int[np.ndarray, " k"], search: Search
) -> Iterator[tuple[Int[np.ndarray, " k"], int]]:
  """Each node of a large component with its neighbours of no lower core.

  A clique whose first node has core number c has at most c + 1 nodes.
  """
  inside = joined[group][:, group]
  core = nx.core_number(nx.from_scipy_sparse_array(inside))
  cores = np.array([core[i] for i in range(len(group))])
  ranked = np.argsort(cores, kind="stable")
  rank = np.argsort(ranked)
  for v in ranked[::-1]:
    bound = int(cores[v]) + 1
    if bound < search.size:
      return
    if search.work >= search.budget:
      search.give_up(bound)
      return
    near = inside.indices[inside.indptr[v] : inside.indptr[v + 1]]
    part = np.append(near[rank[near] > rank[v]], v)
    part = _core(inside, part, search.size - 1)
    search.work += len(group) // 16
    if len(part) > LARGEST:
      search.give_up(bound)
      part = part[:LARGEST]
    yield group[part], CLIMBS if v == ranked[-1] else 0

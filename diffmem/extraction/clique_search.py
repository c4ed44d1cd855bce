# SPDX-License-Identifier: Apache-2.0
"""Branch and bound for the best clique of a weighted graph.

A state is a clique C and a set P of nodes joined to all of C. Those of P with
too few edges are dropped; those joined to all the others of P are taken, for
the largest cliques within C and P hold them. P is split greedily into
independent sets ("colours", as in Tomita and Seki, 2003): a clique takes at
most one node of each, so |C| + colours bounds its size. If that only just
reaches the best size it takes exactly one of each, and then

  value(v) = w(v, C) + 1/2 * sum over other colours of min w(v, u), u in it,
  sum over pairs >= w(C) + sum over colours of min value(v), v in it,

which discards nodes, or the state. Enumeration of the maximal cliques
(networkx.find_cliques) has no such bounds: among n near copies, k pairs that
are too far apart already make 2^k of them.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from diffmem.arrays import Float, Int
from diffmem.extraction.clique_climb import climb

ROUNDING = 1e-10  # relative: sums closer than this are compared exactly


class State(NamedTuple):
  """bound: no clique of it is larger; members: C; free: bits of P.

  total: sum over the pairs of C; far: of each node, the sum to C; new: nodes
  of P that have yet to be taken.
  """

  bound: int
  members: list[int]
  free: int
  total: float
  far: Float[np.ndarray, " k"]
  new: tuple[int, ...] = ()


class Part:
  """A subgraph: nodes [k] and their distances [k k], inf where no edge is.

  Inside, nodes go by their place in the order of falling degrees.
  """

  def __init__(
    self, nodes: Int[np.ndarray, " k"], weights: Float[np.ndarray, "k k"]
  ):
    order = np.argsort(-np.isfinite(weights).sum(axis=1), kind="stable")
    self.nodes, self.weights = nodes[order], weights[np.ix_(order, order)]
    self.joined = np.isfinite(self.weights)
    self.lengths = np.where(self.joined, self.weights, 0.0)
    packed = np.packbits(self.joined, axis=1, bitorder="little")
    self.near = [int.from_bytes(row.tobytes(), "little") for row in packed]

  def root(self) -> State:
    """No member, every node free."""
    k = len(self.nodes)
    return State(k, [], (1 << k) - 1, 0.0, np.zeros(k))

  def take(self, state: State, new: Sequence[int]) -> State:
    """The state with some more members, which are joined to each other."""
    total, far, free = state.total, state.far, state.free
    for v in new:
      total, free = total + far[v], free & self.near[v]
      far = far + self.lengths[v]
    return State(state.bound, [*state.members, *new], free, total, far)

  def reduce(self, state: State, size: int) -> State:
    """Takes free nodes joined to all others, drops those of too few edges."""
    free, count, new = state.free, state.free.bit_count(), []
    for v in bits(free):
      degree = (state.free & self.near[v]).bit_count()
      if degree == count - 1:
        new.append(v)
      elif degree + len(state.members) + 1 < size:
        free ^= 1 << v
    return self.take(state._replace(free=free), new)

  def colours(self, free: int) -> list[list[int]]:
    """Splits the free nodes into independent sets, greedily."""
    found = []
    while free:
      rest, colour = free, []
      while rest:
        low = rest & -rest
        v = low.bit_length() - 1
        colour.append(v)
        rest &= ~(self.near[v] | low)
        free ^= low
      found.append(colour)
    return found

  def feasible(
    self, state: State, colours: list[list[int]], most: float
  ) -> list[list[int]]:
    """Keeps what a clique with one node of each colour and sum <= most can use.

    The nodes of a colour come back in the order of their values; the last
    colour is the one where the choice matters most. Empty when there is none.
    """
    while True:
      nodes = np.concatenate(colours)
      sizes = [len(colour) for colour in colours]
      starts = np.cumsum([0, *sizes[:-1]])
      owner = np.repeat(np.arange(len(colours)), sizes)
      least = np.minimum.reduceat(
        self.weights[np.ix_(nodes, nodes)], starts, axis=1
      )
      least[np.arange(len(nodes)), owner] = 0
      value = state.far[nodes] + least.sum(axis=1) / 2
      lowest = np.minimum.reduceat(value, starts)
      total = state.total + lowest.sum()
      if not (np.isfinite(total) and total <= most):
        return []
      regret = value - lowest[owner]
      ok = np.isfinite(regret) & (total + regret <= most)
      if ok.all():
        break
      kept = np.split(np.where(ok, nodes, -1), starts[1:])
      colours = [colour[colour >= 0].tolist() for colour in kept]
    order = np.lexsort((value, owner))
    colours = [c.tolist() for c in np.split(nodes[order], starts[1:])]
    ranked = [[*r, -1, -1] for r in np.split(regret[order], starts[1:])]
    last = max(range(len(colours)), key=lambda c: ranked[c][1])
    return [*colours[:last], *colours[last + 1 :], colours[last]]


class Search:
  """The best clique so far, over all parts, and what it took.

  size, total, best: the size to reach, the sum over the pairs of the best
  clique, its nodes (none yet: empty); bound: of the states given up.
  """

  def __init__(self, minimum: int, budget: int):
    self.size, self.total, self.best = minimum, math.inf, ()
    self.budget, self.work, self.bound = budget, 0, 0

  def give_up(self, bound: int) -> None:
    """Notes that cliques up to a size were not looked at."""
    self.bound = max(self.bound, bound)

  def offer(self, part: Part, members: list[int]) -> None:
    """Keeps a clique that is larger, closer, or as close with lower ids."""
    if len(members) < self.size:
      return
    inside = part.weights[np.ix_(members, members)]
    total = math.fsum(inside[np.triu_indices(len(members), 1)])
    nodes = tuple(np.sort(part.nodes[members]).tolist())
    self.work += len(members) ** 2 // 16
    now = (-self.size, self.total, self.best)
    if not self.best or (-len(nodes), total, nodes) < now:
      self.size, self.total, self.best = len(nodes), total, nodes

  def run(self, part: Part, climbs: int) -> None:
    """Climbs, always; then searches a part while the budget lasts."""
    for start in range(min(climbs, len(part.nodes))):
      steps = min(2 * len(part.nodes), 300)
      members = climb(part.joined, part.lengths, start, steps)
      self.work += 20 * steps
      self.offer(part, members)
      if len(members) == len(part.nodes):
        return  # complete
    stack = [part.root()]
    while stack:
      state = stack.pop()
      if state.bound >= self.size:
        stack += self.expand(part, state)
      if self.work >= self.budget:
        self.give_up(max((s.bound for s in stack), default=0))
        return

  def expand(self, part: Part, state: State) -> list[State]:
    """The states that a state leads to, the most promising one last."""
    self.work += 20 + state.free.bit_count()
    state = part.reduce(part.take(state, state.new), self.size)
    if not state.free:
      self.offer(part, state.members)
      return []
    colours = part.colours(state.free)
    need = max(self.size - len(state.members), 1)
    if len(colours) < need:
      return []
    if len(colours) + len(state.members) == self.size:
      return self.finish(part, state, colours)
    found, before = [], sum(1 << v for c in colours[: need - 1] for v in c)
    for k, colour in enumerate(colours[need - 1 :], need):
      for v in colour:
        bound = len(state.members) + k
        found.append(state._replace(bound=bound, free=before, new=(v,)))
        before |= 1 << v
    self.work += len(found)
    return found

  def finish(
    self, part: Part, state: State, colours: list[list[int]]
  ) -> list[State]:
    """`expand` where a clique must take one node of each colour."""
    self.work += 200 + state.free.bit_count() ** 2 // 16
    most = self.total * (1 + ROUNDING)
    colours = part.feasible(state, colours, most)
    if not colours:
      return []
    forced = [colour[0] for colour in colours if len(colour) == 1]
    free = sum(1 << v for colour in colours for v in colour)
    inner = state._replace(bound=self.size, free=free)
    if len(forced) == len(colours):
      return [inner._replace(new=tuple(forced))]
    return [inner._replace(new=(*forced, v)) for v in colours[-1][::-1]]


def bits(mask: int) -> Iterator[int]:
  """Positions of the set bits, ascending."""
  while mask:
    yield (mask & -mask).bit_length() - 1
    mask &= mask - 1

# SPDX-License-Identifier: Apache-2.0
"""How far images are from each other, exactly, and who is nearest to whom."""

from diffmem.distances.edges import Edges
from diffmem.distances.groups import Graph, groups, prompt_graphs
from diffmem.distances.knn import Neighbours, nearest
from diffmem.distances.pairs import pairs, read_pairs, write_pairs
from diffmem.distances.patches import patch_max
from diffmem.distances.vectors import nearest_vectors, vectors_within

__all__ = [
  "Edges",
  "Graph",
  "Neighbours",
  "groups",
  "nearest",
  "nearest_vectors",
  "pairs",
  "patch_max",
  "prompt_graphs",
  "read_pairs",
  "vectors_within",
  "write_pairs",
]

# SPDX-License-Identifier: Apache-2.0
"""What pairs join up to: groups of near-duplicates, and graphs of prompts.

A group is a connected component of the graph whose edges are the pairs
within a threshold: images at its ends may be further apart than that.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import scipy.sparse

from diffmem.arrays import Int
from diffmem.distances import blocks, patches
from diffmem.distances.edges import Edges
from diffmem.distances.pairs import check_threshold, pairs


@dataclasses.dataclass(frozen=True)
class Graph:
  """The images of one prompt (rows) and the pairs among them (edges).

  Both count rows of the whole set.
  """

  prompt: int
  rows: Int[np.ndarray, " p"]
  edges: Edges


def groups(edges: Edges, n: int) -> Int[np.ndarray, " n"]:
  """The group of each of n images: the lowest row in it.

  edges: pairs of one set with itself. An image without a pair is a group of
  its own. Raises ValueError where an edge names a row that n does not hold.
  """
  last = max(edges.i.max(initial=-1), edges.j.max(initial=-1))
  if last >= n:
    raise ValueError(
      f"an edge names row {last}, expected rows below n = {n}: pass the number "
      "of images that were joined"
    )
  graph = scipy.sparse.coo_array(
    (np.ones(len(edges), bool), (edges.i, edges.j)), shape=(n, n)
  )
  _, component = scipy.sparse.csgraph.connected_components(
    graph, directed=False
  )
  _, first, inverse = np.unique(
    component, return_index=True, return_inverse=True
  )
  return first[inverse].astype(np.int64)


def prompt_graphs(
  images,
  prompts: Int[np.ndarray, " n"],
  *,
  threshold: float,
  patch: int | None = None,
) -> Iterator[Graph]:
  """For each prompt, ascending, the pairs of its images within a threshold.

  images: uint8 [n h w c], an array or a store; prompts: a number for each
  image; threshold, patch: as in `pairs`. Only images of one prompt meet.
  Raises ValueError as `pairs` does, before any graph, and where prompts are
  not one for each image.
  """
  check_threshold(threshold)
  blocks.check(images, None)
  if patch is not None:
    patches.check_patch(images.shape[1:], patch)
  if len(prompts) != len(images):
    raise ValueError(
      f"{len(prompts)} prompts for {len(images)} images, expected one each"
    )
  return _graphs(images, prompts, threshold, patch)


def _graphs(images, prompts, threshold, patch) -> Iterator[Graph]:
  order = np.argsort(prompts, kind="stable")
  values, first = np.unique(prompts[order], return_index=True)
  for value, rows in zip(values, np.split(order, first[1:]), strict=True):
    found = pairs(images[rows], threshold=threshold, patch=patch)
    edges = dataclasses.replace(found, i=rows[found.i], j=rows[found.j])
    yield Graph(int(value), rows, edges)

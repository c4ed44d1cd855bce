# SPDX-License-Identifier: Apache-2.0
"""Conditions: class labels, embeddings, or trees of arrays, the batch first.

  labels   int32 [b], 0 .. classes - 1, and `classes` itself for none
  a text   {"tokens": float32 [b l e], "mask": bool [b l]}, or any other tree
           of arrays whose leaves share their first axis

The null condition of a denoiser is one such thing without the batch axis.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.denoiser.protocol import Denoiser

Cond = Any


def check(denoiser: Denoiser, cond: Cond, n: int | None = None) -> Cond:
  """Conditions as NumPy arrays; labels are int32.

  Args:
    denoiser: who takes them.
    cond: labels [n], embeddings [n ...], or a tree of arrays [n ...].
    n: how many there must be; None: as many as there are.

  Raises:
    ValueError: there are others than n, or labels that the model lacks.
  """
  if cond is None:
    raise ValueError("cond is None: give one condition a prompt or image")
  if isinstance(cond, list) or not isinstance(cond, dict | tuple):
    cond = np.asarray(cond)
  cond = jax.tree.map(_plain, cond)
  sizes = {len(leaf) if leaf.ndim else 0 for leaf in jax.tree.leaves(cond)}
  if len(sizes) != 1 or not min(sizes) or n not in (None, min(sizes)):
    found = " and ".join(map(str, sorted(sizes)))
    if isinstance(cond, np.ndarray) and n is not None:
      raise ValueError(f"{found} labels for {n} images: give one for each")
    raise ValueError(
      f"a condition has arrays of {found or 'no'} rows, expected "
      f"{n or 'as many in all'}: the batch axis comes first"
    )
  top = denoiser.num_classes
  if top is not None and isinstance(cond, np.ndarray) and cond.dtype == "i4":
    low, high = int(cond.min()), int(cond.max())
    if not 0 <= low <= high <= top:
      raise ValueError(
        f"labels run from {low} to {high}, the model has classes "
        f"0..{top - 1}: give the labels that it was trained on"
      )
  return cond


def count(cond: Cond) -> int:
  """How many conditions there are."""
  return len(jax.tree.leaves(cond)[0])


def take(cond: Cond, rows: Any) -> Cond:
  """Some rows of each array."""
  return jax.tree.map(lambda leaf: leaf[rows], cond)


def null(denoiser: Denoiser) -> Cond:
  """The null condition as NumPy arrays, without the batch axis; or None."""
  return jax.tree.map(_plain, denoiser.null_cond)


def repeat(single: Cond, n: int) -> Cond:
  """As many copies of one condition that has no batch axis."""
  return jax.tree.map(
    lambda leaf: np.broadcast_to(leaf[None], (n, *leaf.shape)), single
  )


def expand(single: Cond, like: Cond) -> Cond:
  """The same inside a traced function: as many as there are in `like`."""

  def one(leaf, other):
    leaf = jnp.asarray(leaf, jnp.asarray(other).dtype)
    return jnp.broadcast_to(leaf[None], other.shape)

  return jax.tree.map(one, single, like)


def _plain(leaf: Any) -> np.ndarray:
  leaf = np.asarray(leaf)
  if leaf.dtype.kind in "iu":
    return leaf.astype(np.int32)
  return leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf

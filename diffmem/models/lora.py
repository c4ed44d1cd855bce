# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters beside frozen kernels (Hu et al. 2022, arXiv 2106.09685).

  W' = W + (alpha / r) A B,   A [... i r] random, B [r o] zero

for dense kernels W [i o] and for convolutions W [u v i o], whose A has the
window of W and whose B mixes channels alone. At the start W' = W; what is
trained are r numbers for each row of A and column of B.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffmem.arrays import Key

KINDS = ("attention", "convolution", "dense")


def init(
  params: dict[str, Any],
  key: Key[jax.Array, ""],
  *,
  rank: int,
  kinds: Sequence[str],
) -> dict[str, dict[str, jax.Array]]:
  """Adapters {"path/to/kernel": {"a", "b"}} of all kernels of these kinds.

  kinds: "attention" (queries, keys, values, output), "convolution", "dense"
  (other dense layers but those of the embedding of t and class).
  Raises ValueError for another kind, a rank below 1, or where nothing fits.
  """
  unknown = [kind for kind in kinds if kind not in KINDS]
  if unknown or not kinds or rank < 1:
    raise ValueError(
      f"adapters of rank {rank} on {tuple(kinds)}: expected a rank of 1 or "
      f"more and some of {', '.join(KINDS)}"
    )
  found = {}
  for i, (name, kind, kernel) in enumerate(_kernels(params)):
    if kind not in kinds:
      continue
    a = jax.random.normal(
      jax.random.fold_in(key, i), (*kernel.shape[:-1], rank)
    )
    a = a / math.sqrt(math.prod(kernel.shape[:-1]))
    b = jnp.zeros((rank, kernel.shape[-1]), jnp.float32)
    found[name] = {"a": a.astype(jnp.float32), "b": b}
  if not found:
    raise ValueError(
      f"this network has no kernels of {', '.join(kinds)}: choose others of "
      f"{', '.join(KINDS)}"
    )
  return found


def merge(
  params: dict[str, Any],
  adapters: dict[str, dict[str, jax.Array]],
  *,
  alpha: float = 1.0,
) -> dict[str, Any]:
  """The weights W' in the place of W; `params` stay as they are."""

  def add(node: dict[str, Any], path: str) -> dict[str, Any]:
    merged = {}
    for key, value in node.items():
      here = f"{path}/{key}" if path else str(key)
      if isinstance(value, dict):
        merged[key] = add(value, here)
      elif here in adapters:
        a, b = adapters[here]["a"], adapters[here]["b"]
        merged[key] = value + (alpha / b.shape[0]) * (a @ b)
      else:
        merged[key] = value
    return merged

  return add(params, "")


def _kernels(
  node: dict[str, Any], path: str = "", kind: str = "dense"
) -> Iterator[tuple[str, str, Any]]:
  """(path, kind, kernel) of every kernel but those of embeddings."""
  if "qkv" in node:
    kind = "attention"
  for key, value in node.items():
    here = f"{path}/{key}" if path else str(key)
    if isinstance(value, dict):
      if key != "embed":
        yield from _kernels(value, here, kind)
    elif key == "kernel":
      yield here, "convolution" if value.ndim == 4 else kind, value

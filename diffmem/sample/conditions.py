# SPDX-License-Identifier: Apache-2.0
"""Which caption each image of a bank is made from.

With prompts there are `per_prompt` images of each, image i of prompt
i // per_prompt. Without, the distinct captions of the members take turns:
image i is of prompt i mod P. Either way a bank knows its prompts.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffmem.data
from diffmem import workdir
from diffmem.arrays import AnyArray, Float, Int, Key
from diffmem.data import captions
from diffmem.sample import bank, chain, prompts


@dataclasses.dataclass(frozen=True, eq=False)
class Prompted:
  """The prompts of a bank.

  Attributes:
    texts: distinct; the position is the prompt's id.
    tree: conditions {"tokens": [p l e], "mask": [p l]}.
    ids: prompt of each image.
    row: ids int [b] -> prompt of each, as `ids`, for JAX.
    digest: of the captions that they were embedded with.
  """

  texts: tuple[str, ...]
  tree: dict[str, np.ndarray]
  ids: Int[np.ndarray, " n"]
  row: Callable[[Any], jax.Array]
  digest: str


def read(
  root: str | os.PathLike,
  *,
  n: int | None,
  wanted: str | os.PathLike | Sequence[str] | None,
  per_prompt: int | None,
  encoder: Mapping[str, Any],
) -> Prompted:
  """The prompts that the config section `sample` asks for.

  Args:
    root: the workdir of a model with captions.
    n: how many images, where no prompts are given.
    wanted: texts, or a file of them (see `prompts.read`), in the workdir or
      elsewhere; None for the captions of the members.
    per_prompt: images of each, with prompts.
    encoder: the config section data.captions, for prompts that are none.

  Raises:
    FileNotFoundError: there is no such file, or no captions were embedded.
    ValueError: a prompt occurs twice or cannot be embedded as the captions
      were, or n and per_prompt do not fit.
  """
  root = workdir.path(root)
  if (wanted is None) != (per_prompt is None) or (n is None) == (
    wanted is None
  ):
    raise ValueError(
      f"sample.n={n}, sample.per_prompt={per_prompt}, sample.prompts="
      f"{'None' if wanted is None else 'given'}: a model with captions needs "
      "prompts and per_prompt, or n alone"
    )
  dataset, split = diffmem.data.read(root / "data")
  embedded = captions.read(workdir.whole(root), dataset)
  if wanted is None:
    rows = np.unique(embedded.ids[dataset.rows(split.members)])
    texts = tuple(embedded.texts[row] for row in rows)
  else:
    texts = _texts(root, wanted)
  tree = captions.conditions(embedded, texts, **encoder)
  last = len(texts) - 1
  if per_prompt is None:
    assert n is not None

    def row(ids):
      return jnp.asarray(ids) % len(texts)
  else:
    if per_prompt < 1:
      raise ValueError(f"sample.per_prompt={per_prompt} must be at least 1")
    n = len(texts) * per_prompt

    def row(ids):  # the last block runs past n and is cut
      return jnp.minimum(jnp.asarray(ids) // per_prompt, last)

  ids = np.asarray(row(np.arange(n)), np.int64)
  return Prompted(texts, tree, ids, row, embedded.digest)


def generator(make: chain.Sampler, prompted: Prompted) -> bank.Generate:
  """The sampler with the condition of each id's prompt.

  Its params are {"weights": those of make, "conditions": prompted.tree}.
  """

  def generate(
    params: Any, ids: Int[AnyArray, " b"], key: Key[jax.Array, ""]
  ) -> Float[jax.Array, "b h w c"]:
    rows = prompted.row(ids)
    cond = jax.tree.map(lambda leaf: leaf[rows], params["conditions"])
    return make(params["weights"], ids, key, cond)

  return generate


def _texts(root, wanted) -> tuple[str, ...]:
  """Distinct prompts of a list or a file."""
  if isinstance(wanted, str | os.PathLike):
    return prompts.read(wanted, root=root)[0]
  texts = tuple(wanted)
  if not texts:
    raise ValueError("sample.prompts is empty: give at least one caption")
  again = [text for i, text in enumerate(texts) if text in texts[:i]]
  if again:
    raise ValueError(
      f"sample.prompts must be distinct, {again[0][:80]!r} is not"
    )
  return texts

# SPDX-License-Identifier: Apache-2.0
"""Prompts perturbed when they are sampled, one draw for each image.

  gaussian  tokens + scale rms z, z ~ N(0, I), rms that of the token itself
  replace   `count` tokens, or words, become others of the vocabulary
  add       `count` of the vocabulary are put in at random places
  repeat    `count` of the prompt's own are put in again at random places

The first on embeddings alone; the others on embeddings, whose vocabulary is
all tokens of the captions, or on words, whose vocabulary is all words of the
prompts (`words`). What is put in moves the rest along; what passes the end of
the embedding is cut. Which token, and where, is a function of the image's key.

Somepalli et al., "Understanding and Mitigating Copying in Diffusion Models",
NeurIPS 2023, section 6 (Gaussian noise, random tokens, word repetition).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import keys
from diffmem.arrays import AnyArray, Float, Key

KINDS = ("gaussian", "replace", "add", "repeat")


def tokens(
  cond: Any,
  id_keys: Key[jax.Array, " b"],
  *,
  kind: str,
  scale: float | None = None,
  count: int | None = None,
  vocabulary: Float[AnyArray, "v e"] | None = None,
) -> dict[str, jax.Array]:
  """{"tokens": [b l e], "mask": [b l]}, perturbed.

  Args:
    cond: such a tree; a caption without tokens (the null one) stays.
    id_keys: of the images.
    kind: one of KINDS.
    scale: of the noise, in root mean squares of a token ("gaussian").
    count: how many tokens, the others.
    vocabulary: tokens to choose from ("replace", "add").

  Raises:
    ValueError: cond is no such tree, or an option is missing.
  """
  if not isinstance(cond, dict) or set(cond) != {"tokens", "mask"}:
    raise ValueError(
      "perturbation needs a condition of tokens and mask: class labels and "
      "conditions of other kinds have no words"
    )
  check(kind, scale=scale, count=count)
  if kind == "gaussian":
    one: Callable = functools.partial(_noised, scale=scale)
  else:
    if kind != "repeat" and vocabulary is None:
      raise ValueError(f"{kind!r} needs a vocabulary to choose from")
    if kind != "repeat":
      vocabulary = jnp.asarray(vocabulary)
    one = functools.partial(
      _edited, kind=kind, count=count, vocabulary=vocabulary
    )
  found, mask = jax.vmap(one)(
    jnp.asarray(cond["tokens"]), jnp.asarray(cond["mask"]), id_keys
  )
  some = jnp.asarray(cond["mask"]).any(1)
  return {
    "tokens": jnp.where(some[:, None, None], found, cond["tokens"]),
    "mask": jnp.where(some[:, None], mask, cond["mask"]),
  }


def words(
  text: str,
  rng: np.random.Generator,
  *,
  kind: str,
  count: int,
  vocabulary: Sequence[str],
) -> str:
  """A prompt with `count` of its words replaced, added or repeated."""
  check(kind, scale=None, count=count)
  found = text.split()
  for _ in range(count if found else 0):
    place = int(rng.integers(len(found) + (kind != "replace")))
    pool = found if kind == "repeat" else vocabulary
    word = pool[int(rng.integers(len(pool)))]
    if kind == "replace":
      found[place] = word
    else:
      found.insert(place, word)
  return " ".join(found)


def check(kind: str, *, scale: float | None, count: int | None) -> None:
  """ValueError unless that kind has the option that it needs."""
  if kind not in KINDS:
    raise ValueError(f"perturbation {kind!r}: choose one of {', '.join(KINDS)}")
  if kind == "gaussian":
    if scale is None or not scale >= 0:
      raise ValueError(f"'gaussian' needs scale, 0 or more, got {scale}")
  elif count is None or count < 0:
    raise ValueError(f"{kind!r} needs count, 0 or more, got {count}")


def _noised(tokens, mask, key, *, scale):
  z = jax.random.normal(keys.stream(key, "perturbed tokens"), tokens.shape)
  rms = jnp.sqrt((tokens**2).mean(-1, keepdims=True))
  return jnp.where(mask[:, None], tokens + scale * rms * z, tokens), mask


def _edited(tokens, mask, key, *, kind, count, vocabulary):
  places = jnp.arange(len(mask))
  for i in range(count):
    where, which = jax.random.split(keys.stream(key, "perturbed tokens", i))
    length = mask.sum()
    pool = tokens if kind == "repeat" else vocabulary
    size = length if kind == "repeat" else len(pool)
    token = pool[jax.random.randint(which, (), 0, jnp.maximum(size, 1))]
    last = length + (kind != "replace")
    place = jax.random.randint(where, (), 0, jnp.maximum(last, 1))
    if kind != "replace":
      before = jnp.where(places < place, places, jnp.maximum(places - 1, 0))
      tokens, mask = tokens[before], places <= length
    tokens = jnp.where((places == place)[:, None], token[None], tokens)
  return tokens, mask

# SPDX-License-Identifier: Apache-2.0
"""Banks from Python: any generator function, any denoiser.

A generator is `(params, ids int32 [b], key) -> images [b h w c]`, floats in
[-1, 1]; image i may depend on (params, i, key) alone, so draw its noise from
keys.per_id(key, ids). With P prompts there are `per_prompt` images of each,
image i of prompt i // per_prompt, and the generator finds the prompt of an id
in the same way.
"""

import functools
import hashlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import keys, store, workdir
from diffmem.arrays import Float, Int, Key
from diffmem.denoiser import Denoiser
from diffmem.sample import bank, chain
from diffmem.sample import run as stages

_log = logging.getLogger(__name__)


def run(
  root: str | os.PathLike,
  generate: bank.Generate,
  *,
  params: Any = None,
  n: int | None = None,
  prompts: Sequence[str] | None = None,
  per_prompt: int | None = None,
  batch: int = 512,
  seed: int = 0,
  name: str = "generator",
  backend: str = "pmap",
  progress: bool = True,
  **record: Any,
) -> None:
  """Makes <root>/sample, or what is still missing of it.

  Args:
    root: the workdir; no stage need have run.
    generate: see the module. Its code cannot be compared between runs: give
      another `name` where it changes.
    params: what it is called with, a tree of arrays, or None.
    n: how many images; not with prompts.
    prompts, per_prompt: distinct texts, and how many images of each.
    batch: images in a call, and in a chunk of the store.
    seed: the root of the noise.
    name, **record: kept in meta.json and compared.
    backend: "pmap", "jit", or "host" where JAX cannot trace the generator.
    progress: show the rate and the time left.

  Raises:
    ValueError, OSError: bad arguments, or a bank that was made with others.
  """
  prompts, n = _count(n, prompts, per_prompt, batch)
  key = keys.stream(keys.root(seed), "sample")
  size = min(batch, n)
  shape = _shape(generate, params, size, key, backend)
  config = dict(generator=name, n=n, batch=batch, per_prompt=per_prompt)
  with workdir.stage(
    root,
    "sample",
    config={"seed": seed, "sample": config | record},
    inputs={"params": _hash(params), "prompts": workdir.digest(prompts)},
    needs=n * math.prod(shape) if not _there(root) else 0,
  ) as stage:
    images = store.create(
      stage.folder / "images", shape=(n, *shape), dtype=np.uint8, chunk=size
    )
    if stage.finished and images.complete():
      _log.info("sample: finished before, kept (%s)", stage.folder)
      return
    _write_prompts(stage.folder, prompts, n)
    bank.fill(images, generate, params, key, backend=backend, progress=progress)
    stage.record("generated", n)
    stage.record("shape", list(shape))


def _write_prompts(
  folder: os.PathLike, prompts: Sequence[str] | None, n: int
) -> None:
  if prompts is not None:
    ids = np.arange(n) // (n // len(prompts))
    bank.write_beside(folder, prompts=prompts, prompt_ids=ids)


def run_denoiser(
  root: str | os.PathLike,
  denoiser: Denoiser,
  *,
  conditions: Any = None,
  stepper: str = "ddim",
  steps: int = 50,
  eta: float = 0.0,
  guidance: float = 1.0,
  clip: bool | float = True,
  name: str = "denoiser",
  **options: Any,
) -> None:
  """The same with a denoiser and a chain; see `run` and `chain.chain`.

  Args:
    root: the workdir.
    denoiser: any; sampled on the host where it is not traceable.
    conditions: cond for each prompt, a tree of arrays [p ...]. Without, a
      denoiser of classes gets them in turns.
    stepper, steps, eta, guidance, clip: see `chain.chain`.
    name: of the denoiser.
    **options: n, prompts, per_prompt, batch, seed, progress of `run`.

  Raises:
    ValueError: options that do not fit the denoiser, before it is called.
  """
  settings: dict[str, Any] = dict(
    stepper=stepper, steps=steps, eta=eta, guidance=guidance, clip=clip
  )
  if conditions is None:
    generate = stages.generator(denoiser, **settings)
  else:
    make = chain.chain(denoiser, **settings)
    generate = _conditional(make, conditions, options)
  backend = "pmap" if denoiser.traceable else "host"
  digest = None if conditions is None else _hash(conditions)
  run(
    root,
    generate,
    params=denoiser.params,
    name=name,
    backend=options.pop("backend", backend),
    conditions=digest,
    **options,
    **settings,
  )


def _conditional(
  make: chain.Sampler, conditions: Any, options: dict[str, Any]
) -> bank.Generate:
  """The sampler with the condition of each id's prompt."""
  conditions = jax.tree.map(jnp.asarray, conditions)
  count = len(jax.tree.leaves(conditions)[0])
  per_prompt, prompts = options.get("per_prompt"), options.get("prompts")
  if per_prompt is None or prompts is None or len(prompts) != count:
    raise ValueError(f"{count} conditions need as many prompts, and per_prompt")

  def generate(
    params: object, ids: Int[Any, " b"], key: Key[jax.Array, ""]
  ) -> Float[jax.Array, "b h w c"]:
    # The last block runs past n and is cut.
    rows = jnp.minimum(jnp.asarray(ids) // per_prompt, count - 1)
    cond = jax.tree.map(lambda leaf: leaf[rows], conditions)
    return make(params, ids, key, cond)

  return generate


def _count(
  n: int | None,
  prompts: Sequence[str] | None,
  per_prompt: int | None,
  batch: int,
) -> tuple[list[str] | None, int]:
  """(prompts, n), checked."""
  if (prompts is None) != (per_prompt is None) or (n is None) == (
    prompts is None
  ):
    raise ValueError(
      "give either n, or prompts and per_prompt; got "
      f"n={n}, per_prompt={per_prompt}, "
      f"prompts={'None' if prompts is None else 'a list'}"
    )
  texts = None
  if prompts is not None and per_prompt is not None:
    texts = list(prompts)
    if len(set(texts)) != len(texts):
      again = next(text for text in texts if texts.count(text) > 1)
      raise ValueError(f"prompts must be distinct, {again[:80]!r} is not")
    n = len(texts) * per_prompt
  if n is None or n < 1 or batch < 1:
    raise ValueError(f"n={n} and batch={batch} must be at least 1")
  return texts, n


def _shape(
  generate: bank.Generate, params: Any, size: int, key: Any, backend: str
) -> tuple[int, int, int]:
  """(h, w, c) of what it makes, checked."""
  ids = np.arange(size, dtype=np.int32)
  call: Callable[..., Any] = functools.partial(jax.eval_shape, generate)
  if backend == "host":
    call, ids = generate, ids[:1]
  made = call(params, ids, key)
  shape, dtype = tuple(made.shape), np.dtype(made.dtype)
  if len(shape) != 4 or shape[0] != len(ids) or shape[3] not in (1, 3):
    raise ValueError(
      f"the generator gives {list(shape)} for {len(ids)} ids: expected "
      f"[{len(ids)} h w c], c = 1 or 3"
    )
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f"the generator gives {dtype}: expected floats in [-1, 1], say "
      "images / 127.5 - 1"
    )
  return shape[1], shape[2], shape[3]


def _there(root: str | os.PathLike) -> bool:
  return (workdir.path(root) / "sample" / "images").exists()


def _hash(tree: Any) -> str:
  """sha256 of a tree of arrays."""
  digest = hashlib.sha256(str(jax.tree.structure(tree)).encode())
  for leaf in jax.tree.leaves(tree):
    leaf = np.asarray(leaf)
    digest.update(f"{leaf.dtype}{leaf.shape}".encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()

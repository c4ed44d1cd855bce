# SPDX-License-Identifier: Apache-2.0
"""What one call of a network costs, counted from its shapes; nothing is run.

For one image, weights aside:

  flops   operations of the forward pass, as XLA counts them
  moved   bytes that matrix products and convolutions read and write, each
          once: what no fusion can avoid
  alive   bytes of values that are needed at the same time in a call
  kept    bytes that a forward pass keeps for the gradient

A training step counts as three calls, one forward and two of its size
backward. `alive` and `kept` are those of the program as it is written: XLA,
which fuses, needs less of the first and not all of the second.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffmem.models
from diffmem.denoiser import conditions

TRAINING = 3  # calls that a step on one image is worth
PRODUCTS = ("dot_general", "conv_general_dilated")


@dataclasses.dataclass(frozen=True)
class Counted:
  """See the module; params: how many weights; dtype: of the products."""

  params: int
  flops: float
  moved: float
  alive: float
  kept: float
  dtype: str


def count(model: diffmem.models.Model, dtype: str) -> Counted:
  """What a call of `model` costs, its products in `dtype`."""
  params = jax.eval_shape(model.init, jax.random.key(0))

  def call(params: Any, x: Any, t: Any, cond: Any):
    return model.apply(params, x, t, cond)

  one, two = (_inputs(model, b) for b in (1, 2))
  lowered = jax.jit(call).lower(params, *one)
  traced = [jax.make_jaxpr(call)(params, *x).jaxpr for x in (one, two)]
  moved, alive = ([of(jaxpr) for jaxpr in traced] for of in (_moved, _alive))
  kept = [_kept(call, params, x) for x in (one, two)]
  analysis: Any = lowered.cost_analysis()
  return Counted(
    diffmem.models.count(params),
    float(analysis["flops"]),
    float(moved[1] - moved[0]),
    float(alive[1] - alive[0]),
    float(kept[1] - kept[0]),
    dtype,
  )


def cond(model: diffmem.models.Model, b: int) -> Any:
  """Conditions [b ...] that mean none, of a model that takes some."""
  single: Any = model.null_cond
  if model.text is None and single is not None:
    single = np.asarray(single, np.int32)  # the null class
  if model.low is not None:
    low = np.zeros(model.low, np.float32)
    single = {**(single or {}), "low": low, "level": np.asarray(0, np.int32)}
  return None if single is None else conditions.repeat(single, b)


def _inputs(model: diffmem.models.Model, b: int) -> tuple[Any, Any, Any]:
  x = jax.ShapeDtypeStruct((b, *model.shape), jnp.float32)
  t = jax.ShapeDtypeStruct((b,), jnp.int32)
  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), cond(model, b)
  )
  return x, t, shapes


def _kept(call: Any, params: Any, inputs: tuple[Any, ...]) -> float:
  """Bytes of the residuals of a gradient by the weights."""

  def residuals(params, x, t, c):
    return jax.vjp(lambda p: call(p, x, t, c), params)[1]

  leaves = jax.tree.leaves(jax.eval_shape(residuals, params, *inputs))
  return float(sum(_bytes(leaf) for leaf in leaves))


def _moved(jaxpr: Any) -> float:
  total = 0.0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name in PRODUCTS:
      values = (*eqn.invars, *eqn.outvars)
      total += sum(_bytes(value.aval) for value in values)
    inner = sum(_moved(sub) for sub in _inside(eqn))
    total += inner * eqn.params.get("length", 1)  # of a scan
  return total


def _alive(jaxpr: Any) -> float:
  """Bytes of values made in it that are alive together, at most."""
  last = {}
  for i, eqn in enumerate(jaxpr.eqns):
    last |= {v: i for v in eqn.invars if not hasattr(v, "val")}
  last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not hasattr(v, "val")}
  size: dict[Any, int] = {}
  peak = 0.0
  for i, eqn in enumerate(jaxpr.eqns):
    inner = max((_alive(sub) for sub in _inside(eqn)), default=0.0)
    made = {v: _bytes(v.aval) for v in eqn.outvars}
    peak = max(peak, sum(size.values()) + max(inner, sum(made.values())))
    size |= made
    size = {v: s for v, s in size.items() if last.get(v, -1) > i}
  return float(peak)


def _inside(eqn: Any) -> Iterator[Any]:
  """The programs that an operation runs; of branches, each."""
  for value in eqn.params.values():
    for one in value if isinstance(value, tuple | list) else (value,):
      inner = getattr(one, "jaxpr", one)  # a closed one holds its own
      if hasattr(inner, "eqns"):
        yield inner


def _bytes(aval: Any) -> int:
  if not hasattr(aval, "dtype"):
    return 0
  if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
    return 8 * math.prod(aval.shape)
  return math.prod(aval.shape) * aval.dtype.itemsize

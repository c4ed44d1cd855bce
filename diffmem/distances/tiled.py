# SPDX-License-Identifier: Apache-2.0
"""One tile of squared distances, as exact integer matrix products.

Pixels are centred to x - 128 in [-128, 127] (a distance does not change), so

  squared(x, y) = |x|^2 + |y|^2 - 2 <x, y>

The product <x, y> has several forms, all exact and so all equal:

  int8      int8 x int8 -> int32: |<x, y>| <= d 2^14 < 2^31 up to PRODUCT_DIMS
            values
  bfloat16  such integers are exact in bfloat16, and sums of their products in
  float32   float32 up to 2^24: chunks of CHUNK values, added in int32

More than PRODUCT_DIMS values make several products, added in int64 on the
host. Which form is fastest is a constant of the platform (FASTEST). Measured
on two CPU cores with AMX: int8 1,700 to 3,300 GFLOP/s as the machine is more
or less quiet, bfloat16 a third to a tenth of that, float32 less. For gpu and
tpu not measured yet.

Which pairs are below a bound B (exclusive) is seen on the device without
forming the distance. With h = floor(|y|^2 / 2),

  squared < B   implies   h - <x, y> <= floor((B - |x|^2 - 1) / 2)

and |h - <x, y>| <= 1.5 d 2^14 stays within int32 up to FILTER_DIMS values;
beyond, float32 is compared, with the bound raised by more than its error.
The host forms the few distances that are left in int64.

  distance  255^2 d < 2^31 up to INT32_DIMS = 33,025 values: `values`, for
            selection on the device, exists up to there
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from diffmem import mesh as meshes
from diffmem.arrays import AnyArray, Bool, Int, UInt8

CHUNK = 1024
INT32_DIMS = (2**31 - 1) // 255**2
PRODUCT_DIMS = (2**31 - 1) // 2**14
FILTER_DIMS = (2**31 - 1) // (3 * 2**13)


def _dot(a: jax.Array, b: jax.Array, dtype) -> jax.Array:
  contract_last = (((1,), (1,)), ((), ()))
  return jax.lax.dot_general(
    a,
    b,
    contract_last,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=dtype,
  )


def _int8(
  a: Int[jax.Array, "n d"], b: Int[jax.Array, "m d"]
) -> Int[jax.Array, "n m"]:
  return _dot(a, b, jnp.int32)


def _chunks(
  dtype, a: Int[jax.Array, "n d"], b: Int[jax.Array, "m d"]
) -> Int[jax.Array, "n m"]:
  def product(start, size: int):
    x, y = (
      jax.lax.dynamic_slice_in_dim(v, start, size, axis=1).astype(dtype)
      for v in (a, b)
    )
    return _dot(x, y, jnp.float32).astype(jnp.int32)

  whole, rest = divmod(a.shape[1] - 1, CHUNK)
  last = product(whole * CHUNK, rest + 1)
  if not whole:
    return last
  return jax.lax.fori_loop(
    0, whole, lambda i, total: total + product(i * CHUNK, CHUNK), last
  )


FORMS = {
  "int8": _int8,
  "bfloat16": functools.partial(_chunks, jnp.bfloat16),
  "float32": functools.partial(_chunks, jnp.float32),
}
FASTEST = {"cpu": "int8", "gpu": "bfloat16", "tpu": "int8"}


def centre(images: UInt8[np.ndarray, "n ..."]) -> Int[np.ndarray, "n d"]:
  """Pixels 0..255 -> int8 pixel - 128, one row an image."""
  flat = np.ascontiguousarray(images).reshape(len(images), -1)
  return (flat ^ np.uint8(128)).view(np.int8)


@jax.jit
def squares(centred: Int[jax.Array, "n d"]) -> tuple[jax.Array, ...]:
  """|x|^2 in int32, of each part of at most PRODUCT_DIMS values."""
  n, d = centred.shape
  # The diagonals of small products: a third of the time of a sum of squares.
  groups = centred.reshape(-1, math.gcd(n, 16), d)
  batched = (((2,), (2,)), ((0,), (0,)))
  return tuple(
    jnp.diagonal(
      jax.lax.dot_general(x, x, batched, preferred_element_type=jnp.int32),
      axis1=1,
      axis2=2,
    ).reshape(n)
    for x in (
      groups[:, :, start : start + PRODUCT_DIMS]
      for start in range(0, d, PRODUCT_DIMS)
    )
  )


def norms(centred: Int[AnyArray, "n d"]) -> Int[np.ndarray, " n"]:
  """|x|^2 of centred rows, in int64."""
  found = squares(jnp.asarray(centred))
  return np.sum([np.asarray(part, np.int64) for part in found], axis=0)


def products(
  a: Int[jax.Array, "n d"], b: Int[jax.Array, "m d"], form: str
) -> tuple[Int[jax.Array, "n m"], ...]:
  """<x, y> of centred rows in int32, of each part of PRODUCT_DIMS values."""
  product = FORMS[form]
  return tuple(product(x, y) for x, y in zip(_parts(a), _parts(b), strict=True))


def _parts(rows: jax.Array) -> list[jax.Array]:
  d = rows.shape[1]
  return [
    rows[:, start : start + PRODUCT_DIMS] for start in range(0, d, PRODUCT_DIMS)
  ]


def near(
  a: Int[jax.Array, "n d"],
  b: Int[jax.Array, "m d"],
  b_squares: tuple[Int[jax.Array, " m"], ...],
  bound: jax.Array,
  *,
  form: str,
) -> tuple[tuple[Int[jax.Array, "n m"], ...], Bool[jax.Array, "n m"]]:
  """The products, and which pairs can be below the bound.

  b_squares: |y|^2, as of `squares`; bound [n]: `bounds` of B and |x|^2.
  """
  dots = products(a, b, form)
  if a.shape[1] <= FILTER_DIMS:
    half = b_squares[0] >> 1
    return dots, half[None, :] - dots[0] <= bound[:, None]
  half = jnp.stack([part.astype(jnp.float32) for part in b_squares]).sum(0) / 2
  total = sum(dot.astype(jnp.float32) for dot in dots)
  return dots, half[None, :] - total <= bound[:, None]


def bounds(
  below: Int[np.ndarray, " n"], a_norms: Int[np.ndarray, " n"], d: int
) -> np.ndarray:
  """What h - <x, y> of `near` does not exceed where squared < below."""
  bound = (below - a_norms - 1) >> 1
  if d <= FILTER_DIMS:
    return np.minimum(bound, 2**31 - 1).astype(np.int32)
  # Each of the conversions and sums is off by at most 2^-24 of d 2^15.
  slack = (8 + 2 * (d // PRODUCT_DIMS)) * d * 2.0**-9
  return (bound + slack).astype(np.float32)


def values(
  a: Int[jax.Array, "n d"],
  b: Int[jax.Array, "m d"],
  a_norms: Int[jax.Array, " n"],
  b_norms: Int[jax.Array, " m"],
  *,
  form: str,
) -> Int[jax.Array, "n m"]:
  """Squared distances in int32, for at most INT32_DIMS values."""
  (dot,) = products(a, b, form)
  return a_norms[:, None] + b_norms[None, :] - 2 * dot


@functools.partial(jax.jit, static_argnames="form")
def _values(a, b, a_norms, b_norms, form):
  return values(a, b, a_norms, b_norms, form=form)


@functools.partial(jax.jit, static_argnames="form")
def _products(a, b, form):
  return products(a, b, form)


def squared(
  a: Int[jax.Array, "n d"],
  b: Int[jax.Array, "m d"],
  a_norms: Int[np.ndarray, " n"],
  b_norms: Int[np.ndarray, " m"],
  *,
  form: str | None = None,
) -> Int[jax.Array, "n m"] | Int[np.ndarray, "n m"]:
  """Squared distances of one tile: int32 on the device, or int64 on the host.

  a, b: centred int8 rows on the device; a_norms, b_norms: their `norms`.
  Up to INT32_DIMS values the result is not waited for (JAX dispatches it).
  """
  form = fastest() if form is None else form
  if a.shape[1] <= INT32_DIMS:
    narrow = (v.astype(np.int32) for v in (a_norms, b_norms))
    return _values(a, b, *narrow, form=form)
  dot = sum(np.asarray(p, np.int64) for p in _products(a, b, form))
  return a_norms[:, None] + b_norms[None, :] - 2 * dot


def fastest(platform: str | None = None) -> str:
  """The fastest form on a platform, by default that of the local devices."""
  platform = platform or jax.local_devices()[0].platform
  return FASTEST.get(platform, "float32")


class Pixels:
  """Centred uint8 images as the search sees them: rows, bounds, distances."""

  dtype = np.dtype(np.uint8)
  values = staticmethod(values)

  def __init__(self, d: int, mesh: Mesh, form: str):
    self.d, self.form = d, form
    self.bits = (255**2 * d).bit_length()
    self.on_device = d <= INT32_DIMS
    self._near = sharded_near(mesh, form)

  def prepare(
    self, rows: UInt8[np.ndarray, "n d"], sharding
  ) -> tuple[Int[jax.Array, "n d"], tuple[Int[jax.Array, " n"], ...]]:
    """(rows on the device, |x|^2 in parts)."""
    centred = jax.device_put(centre(rows), sharding)
    return centred, squares(centred)

  def near(self, a, b, below: Int[np.ndarray, " n"]):
    """(parts, mask) of a block a and a tile b, each with rows and norms."""
    bound = bounds(below, a.norms, self.d)
    return self._near(a.rows, b.rows, b.squares, bound)

  def squared(self, parts, a, b, row, column) -> Int[np.ndarray, " c"]:
    """Exact squared distances of some pairs, int64."""
    flat = row * len(b) + column
    total = a.norms[row] + b.norms[column]
    for part in parts:
      total -= 2 * part.reshape(-1)[flat].astype(np.int64)
    return total

  def all_squared(self, parts, a, b, columns: slice) -> Int[np.ndarray, "n m"]:
    """Exact squared distances to some columns of the tile, int64."""
    total = sum(part[:, columns].astype(np.int64) for part in parts)
    total *= -2
    total += a.norms[:, None]
    total += b.norms[columns]
    return total


@functools.lru_cache
def sharded_near(mesh: Mesh, form: str):
  """`near`, the tile's rows sharded over the mesh."""
  columns = P(None, meshes.AXIS)
  return jax.jit(
    jax.shard_map(
      functools.partial(near, form=form),
      mesh=mesh,
      in_specs=(P(), P(meshes.AXIS), P(meshes.AXIS), P()),
      out_specs=(columns, columns),
    )
  )

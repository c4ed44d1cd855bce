# SPDX-License-Identifier: Apache-2.0
"""One tile of squared distances, as an exact integer matrix product.

Pixels are centred to x - 128 in [-128, 127] (a distance does not change), so

  squared(x, y) = |x|^2 + |y|^2 - 2 <x, y>

with <x, y> a product int8 x int8 -> int32. How far that is exact:

  product   |<x, y>| <= d 2^14 < 2^31     up to PRODUCT_DIMS = 131,071 values
  distance  255^2 d < 2^31                up to INT32_DIMS = 33,025 values

Up to INT32_DIMS the whole sum is formed on the device in int32; beyond, the
products of at most PRODUCT_DIMS values each are added to the norms in int64
on the host (JAX's own 64-bit mode stays off).

Which product: medians on two CPU cores with AMX, JAX 0.12, of 2,048 x 2,500
images of 3,072 values (and of 2,048 x 2,048 images of 64), in GFLOP/s:
int8 -> int32 2,870 (460); bfloat16 -> float32 in chunks of 1,024 values,
added in int32, 310 (220); float32 in the same chunks 220 (150). So int8.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import Int, UInt8

INT32_DIMS = (2**31 - 1) // 255**2
PRODUCT_DIMS = (2**31 - 1) // 2**14


def centre(images: UInt8[np.ndarray, "n ..."]) -> Int[np.ndarray, "n d"]:
  """Pixels 0..255 -> int8 pixel - 128, one row an image."""
  flat = np.ascontiguousarray(images).reshape(len(images), -1)
  return (flat ^ np.uint8(128)).view(np.int8)


def norms(centred: Int[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
  """|x|^2 of centred rows, in int64."""
  out = np.empty(len(centred), np.int64)
  for start in range(0, len(centred), 256):
    rows = centred[start : start + 256].astype(np.int32)
    out[start : start + 256] = np.sum(rows * rows, axis=1, dtype=np.int64)
  return out


def squared(
  a: Int[jax.Array, "n d"],
  b: Int[jax.Array, "m d"],
  a_norms: Int[np.ndarray, " n"],
  b_norms: Int[np.ndarray, " m"],
) -> Int[jax.Array, "n m"] | Int[np.ndarray, "n m"]:
  """Squared distances of one tile: int32 on the device, or int64 on the host.

  a, b: centred int8 rows on the device; a_norms, b_norms: their `norms`.
  Up to INT32_DIMS values the result is not waited for (JAX dispatches it).
  """
  d = a.shape[1]
  if d <= INT32_DIMS:
    return _squared_int32(
      a, b, a_norms.astype(np.int32), b_norms.astype(np.int32)
    )
  total = a_norms[:, None] + b_norms[None, :]
  for start in range(0, d, PRODUCT_DIMS):
    size = min(PRODUCT_DIMS, d - start)
    total -= 2 * np.asarray(_product(a, b, start, size), np.int64)
  return total


@jax.jit
def _squared_int32(
  a: Int[jax.Array, "n d"],
  b: Int[jax.Array, "m d"],
  a_norms: Int[jax.Array, " n"],
  b_norms: Int[jax.Array, " m"],
) -> Int[jax.Array, "n m"]:
  return a_norms[:, None] + b_norms[None, :] - 2 * _dot(a, b)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _product(
  a: Int[jax.Array, "n d"], b: Int[jax.Array, "m d"], start: int, size: int
) -> Int[jax.Array, "n m"]:
  return _dot(a[:, start : start + size], b[:, start : start + size])


def _dot(
  a: Int[jax.Array, "n d"], b: Int[jax.Array, "m d"]
) -> Int[jax.Array, "n m"]:
  contract_last = (((1,), (1,)), ((), ()))
  return jax.lax.dot_general(
    a, b, contract_last, preferred_element_type=jnp.int32
  )

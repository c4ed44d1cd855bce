# SPDX-License-Identifier: Apache-2.0
"""Images moved by an affine map of their own, as two products of matrices.

Output pixel p of an image takes the value at u = M (p - m) + m, m the middle,
interpolated linearly between the four pixels around it:

  y_p = sum_i sum_j hat(u_0 - i) hat(u_1 - j) x_ij,  hat(a) = max(0, 1 - |a|)

Beyond an edge the image goes on as in a mirror that stands on the middle of
its outermost pixels, or is empty. The identity changes no bit, whole steps
move pixels without mixing them, and the gradient is products of matrices too:
no gathers, whose transposes are slow on a CPU.
"""

import functools

import jax
import jax.numpy as jnp

from diffmem.arrays import Float

Maps = Float[jax.Array, "b 3 3"]
# On some chips products are shortened else, and the identity is none.
_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def affine(
  x: Float[jax.Array, "b h w c"], maps: Maps, *, mirror: bool = True
) -> Float[jax.Array, "b h w c"]:
  """Each image through its map.

  Args:
    x: images.
    maps: from (row, column, 1) of the output to the place in the image that
      it is taken from, in pixels from the middle.
    mirror: how images go on beyond their edges; False: zeros.
  """
  b, h, w, c = x.shape
  rows, columns = jnp.meshgrid(
    jnp.arange(h) - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2, indexing="ij"
  )
  places = jnp.stack([rows.ravel(), columns.ravel(), jnp.ones(h * w)])
  found = _product("bij,jp->bip", maps[:, :2], places)
  over = weights(found[:, 0] + (h - 1) / 2, h, mirror)
  along = weights(found[:, 1] + (w - 1) / 2, w, mirror)
  lines = _product("bpj,bijc->bpic", along, x)
  return _product("bpi,bpic->bpc", over, lines).reshape(b, h, w, c)


def weights(
  u: Float[jax.Array, "b p"], size: int, mirror: bool
) -> Float[jax.Array, "b p size"]:
  """How much each of `size` pixels in a row gives to the places u."""
  if mirror:
    last = max(size - 1, 1)
    u = last - jnp.abs(last - jnp.mod(u, 2 * last))
  return jnp.maximum(
    0.0, 1.0 - jnp.abs(u[..., None] - jnp.arange(size)[None, None])
  )


def after(one: Maps, other: Maps) -> Maps:
  """The map to where `one` leads from where `other` leads."""
  return _product("bij,bjk->bik", one, other)


def identity(b: int) -> Maps:
  """Maps that change nothing."""
  return jnp.broadcast_to(jnp.eye(3), (b, 3, 3))


def linear(
  top: tuple[jax.Array, jax.Array], bottom: tuple[jax.Array, jax.Array]
) -> Maps:
  """Maps with these rows [b] of their linear part, and no step."""
  zero, one = jnp.zeros_like(top[0]), jnp.ones_like(top[0])
  rows = ((*top, zero), (*bottom, zero), (zero, zero, one))
  return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def scale(rows: jax.Array, columns: jax.Array) -> Maps:
  """Maps that reach so many times further [b]: images shrink by as much."""
  zero = jnp.zeros_like(rows)
  return linear((rows, zero), (zero, columns))


def rotate(angle: jax.Array) -> Maps:
  """Maps that turn by an angle [b], in radians."""
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return linear((cos, -sin), (sin, cos))


def shift(rows: jax.Array, columns: jax.Array) -> Maps:
  """Maps that step by so many pixels [b]."""
  moved = identity(len(rows)).at[:, 0, 2].set(rows)
  return moved.at[:, 1, 2].set(columns)

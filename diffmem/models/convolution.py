# SPDX-License-Identifier: Apache-2.0
"""NHWC convolution whose gradients are plain NHWC convolutions, for CPUs.

With y[i] = sum_u k[u] x[s i + u - p] (stride s, padding p, per image and over
channels), both gradients are convolutions again:

  dx[j] = sum_u dy'[j + p - u] k[u]     dy' = dy with s - 1 zeros in between
  dk[u] = sum_i x[s i + u - p] dy[i]    summed over images and positions

JAX writes them with permuted dimensions, which XLA's CPU backend turns into
plain ones only outside loops: inside a scan they are 7 to 100 times slower
(github.com/jax-ml/jax/issues/12868). Written plainly they cost the same
everywhere. The sum for dk runs over blocks of rows that fit the cache, which
makes it 1.5 to 2 times faster than one large convolution (measured on two
cores, jax 0.10 and 0.12). Other backends keep JAX's own gradients; forward
mode (`jax.jvp`) is only defined there.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from diffmem.arrays import Float

Image = Float[Array, "_ _ _ _"]  # [b h w channels]
Kernel = Float[Array, "_ _ _ _"]  # [u v inputs outputs]
Pads = list[tuple[int, int]]  # zeros before and after, of rows and columns

BLOCK = 2**17  # elements of dy in a block of rows: 512 KiB of float32


def convolve(
  x: Image, kernel: Kernel, stride: int, first: bool = False
) -> Image:
  """A zero-padded ("SAME") convolution, with gradients fit for the backend.

  Where the zeros are odd in number, the last side has one more; with `first`
  the first side has it, as in PyTorch's padding of (size - 1) / 2.
  """
  if jax.default_backend() == "cpu":
    return _convolve_cpu(x, kernel, stride, first)
  return plain(x, kernel, (stride, stride), _pads(x, kernel, stride, first))


def plain(
  x: Image,
  kernel: Kernel,
  strides: tuple[int, int] = (1, 1),
  padding: str | list[tuple[int, int]] = "VALID",
  **options: Any,
) -> Image:
  """The convolution of lax, in NHWC, HWIO."""
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    **options,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_cpu(x: Image, kernel: Kernel, stride: int, first: bool) -> Image:
  return plain(x, kernel, (stride, stride), _pads(x, kernel, stride, first))


def _forward(
  x: Image, kernel: Kernel, stride: int, first: bool
) -> tuple[Image, tuple[Image, Kernel]]:
  return _convolve_cpu(x, kernel, stride, first), (x, kernel)


def _backward(
  stride: int, first: bool, residuals: tuple[Image, Kernel], dy: Image
) -> tuple[Image, Kernel]:
  x, kernel = residuals
  pads = _pads(x, kernel, stride, first)
  return _input_gradient(x, kernel, stride, pads, dy), (
    _kernel_gradient(x, kernel, stride, pads, dy).astype(kernel.dtype)
  )


_convolve_cpu.defvjp(_forward, _backward)


def _pads(x: Image, kernel: Kernel, stride: int, first: bool) -> Pads:
  """(low, high) zeros for each side, so that y has ceil(side / stride)."""
  pads = []
  for side, size in zip(x.shape[1:3], kernel.shape[:2], strict=True):
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    less, more = total // 2, total - total // 2
    pads.append((more, less) if first else (less, more))
  return pads


def _input_gradient(
  x: Image, kernel: Kernel, stride: int, padded: Pads, dy: Image
) -> Image:
  pads = []
  for axis, (low, _) in enumerate(padded):
    size, side = kernel.shape[axis], x.shape[axis + 1]
    dilated = (dy.shape[axis + 1] - 1) * stride + 1
    low = size - 1 - low
    pads.append((low, side + size - 1 - dilated - low))
  flipped = kernel[::-1, ::-1].swapaxes(2, 3)
  return plain(dy, flipped, padding=pads, lhs_dilation=(stride, stride))


def _kernel_gradient(
  x: Image, kernel: Kernel, stride: int, pads: Pads, dy: Image
) -> Kernel:
  """Images are the summed channels, positions the window: [i u v o]."""
  b, rows, columns, outputs = dy.shape
  u, v, inputs, _ = kernel.shape
  if u == v == stride == 1:
    # One product an image, outputs first: the order XLA needs no copies for.
    each = jnp.einsum(
      "bhwi,bhwo->boi", x, dy, preferred_element_type=jnp.float32
    )
    return each.sum(0).T[None, None]
  x = jnp.pad(x, [(0, 0), *pads, (0, 0)])

  def part(x, dy):
    total = plain(
      x.transpose(3, 1, 2, 0),
      dy.transpose(1, 2, 0, 3),
      rhs_dilation=(stride, stride),
      preferred_element_type=jnp.float32,
    )
    return total[:, :u, :v]

  fitting = [
    r
    for r in range(2, rows + 1)
    if rows % r == 0 and b * r * columns * outputs <= BLOCK
  ]
  block = max(fitting, default=rows)
  if stride > 1 or block == rows:
    return part(x, dy).transpose(1, 2, 0, 3)

  def add(i, total):
    start = i * block
    return total + part(
      lax.dynamic_slice_in_dim(x, start, block + u - 1, axis=1),
      lax.dynamic_slice_in_dim(dy, start, block, axis=1),
    )

  zero = jnp.zeros((inputs, u, v, outputs), jnp.float32)
  return lax.fori_loop(0, rows // block, add, zero).transpose(1, 2, 0, 3)

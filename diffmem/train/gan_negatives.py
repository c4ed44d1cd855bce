# SPDX-License-Identifier: Apache-2.0
"""Negative data: real images, spoilt, that a discriminator must refuse (NDA).

  L = E[real(D(x))] + (1 - w) E[fake(D(G(z)))] + w E[fake(D(T(x)))]

T keeps what is local and breaks what is global, so that D, and through it G,
learns where the data end (Sinha et al. 2021, arXiv:2102.05113, section 3):

  jigsaw  the four quarters in another order, never the right one
  stitch  the upper half of one image on the lower half of another
  cutmix  a rectangle of half the area from another image
  mixup   the mean of two images, weighted by U(1/4, 3/4)

The partner of an image is the next one of the batch.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import keys
from diffmem.arrays import Float, Key

Images = Float[jax.Array, "b h w c"]
ORDERS = np.array(list(itertools.permutations(range(4))))[1:]


def jigsaw(x: Images, key: Key[jax.Array, ""]) -> Images:
  """Quarters exchanged; sides must be even."""
  b, h, w, c = x.shape
  if h % 2 or w % 2:
    raise ValueError(
      f"jigsaw cuts images into quarters, {h} x {w} pixels have none: use "
      "another of adversarial.negatives"
    )
  order = jnp.asarray(ORDERS)[jax.random.randint(key, (b,), 0, len(ORDERS))]
  parts = x.reshape(b, 2, h // 2, 2, w // 2, c).transpose(0, 1, 3, 2, 4, 5)
  parts = parts.reshape(b, 4, h // 2, w // 2, c)
  parts = jnp.take_along_axis(parts, order[:, :, None, None, None], axis=1)
  parts = parts.reshape(b, 2, 2, h // 2, w // 2, c)
  return parts.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)


def stitch(x: Images, key: Key[jax.Array, ""]) -> Images:
  """Two halves that do not belong together."""
  del key
  upper = jnp.arange(x.shape[1]) < x.shape[1] // 2
  return jnp.where(upper[None, :, None, None], x, _partner(x))


def cutmix(x: Images, key: Key[jax.Array, ""]) -> Images:
  """A rectangle of another image."""
  inside = jnp.ones((len(x), 1, 1), bool)
  for axis, n in enumerate(x.shape[1:3]):
    side = round(n / 2**0.5)
    drawn = keys.stream(key, "corner", axis)
    start = jax.random.randint(drawn, (len(x), 1), 0, n - side + 1)
    place = jnp.arange(n)[None] - start
    line = (place >= 0) & (place < side)
    inside = inside & jnp.expand_dims(line, 2 - axis)
  return jnp.where(inside[..., None], _partner(x), x)


def mixup(x: Images, key: Key[jax.Array, ""]) -> Images:
  """Two images, one through the other."""
  part = jax.random.uniform(key, (len(x), 1, 1, 1), minval=0.25, maxval=0.75)
  return part * x + (1.0 - part) * _partner(x)


NEGATIVES: dict[str, Callable[..., Images]] = {
  "jigsaw": jigsaw,
  "stitch": stitch,
  "cutmix": cutmix,
  "mixup": mixup,
}


def create(name: str) -> Callable[..., Images]:
  """T of that name: (images, key) -> images; ValueError if there is none."""
  if name not in NEGATIVES:
    raise ValueError(
      f"adversarial.negatives.name={name!r}: choose one of "
      f"{', '.join(NEGATIVES)}"
    )
  return NEGATIVES[name]


def _partner(x: Images) -> Images:
  return jnp.roll(x, 1, axis=0)

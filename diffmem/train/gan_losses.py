# SPDX-License-Identifier: Apache-2.0
"""What a discriminator D and a generator G minimise, per example.

With logits r = D(x) of real images and f = D(G(z)) of generated ones:

  name         of D                               of G
  logistic     softplus(-r) + softplus(f)         softplus(-f)
  hinge        max(0, 1 - r) + max(0, 1 + f)      -f
  wasserstein  -r + f                             -f

(non-saturating: Goodfellow et al. 2014, section 3; Lim & Ye 2017 and Miyato et
al. 2018, equation 16; Arjovsky et al. 2017, equation 3, whose D must be kept
Lipschitz by a penalty.) Higher logits mean real, everywhere.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffmem.arrays import Float

Logits = Float[jax.Array, " b"]


@dataclasses.dataclass(frozen=True)
class Loss:
  """An adversarial loss: what D pays for both kinds of image, and G for its."""

  real: Callable[[Logits], Logits]
  fake: Callable[[Logits], Logits]
  generator: Callable[[Logits], Logits]


def _minus(logits: Logits) -> Logits:
  return -logits


def _plus(logits: Logits) -> Logits:
  return logits


LOSSES = {
  "logistic": Loss(
    real=lambda r: jax.nn.softplus(-r),
    fake=jax.nn.softplus,
    generator=lambda f: jax.nn.softplus(-f),
  ),
  "hinge": Loss(
    real=lambda r: jnp.maximum(0.0, 1.0 - r),
    fake=lambda f: jnp.maximum(0.0, 1.0 + f),
    generator=_minus,
  ),
  "wasserstein": Loss(real=_minus, fake=_plus, generator=_minus),
}


def create(name: str) -> Loss:
  """The loss of that name; ValueError with the choices if there is none."""
  if name not in LOSSES:
    raise ValueError(
      f"adversarial.loss={name!r}: choose one of {', '.join(LOSSES)}"
    )
  return LOSSES[name]

# SPDX-License-Identifier: Apache-2.0
"""A model without conditions, given some: by a classifier, or by adapters.

The result is a denoiser whose cond is a `Target`, a class and a guidance scale
of each example (0: the model as it was):

  by_classifier  eps - s_t scale grad_x log p(class | x_t, t)
  by_adapters    eps + scale (eps'(x_t, t, class) - eps), eps' the model with
                 low-rank adapters and a table of classes; scale 1 is eps'

It visits each time with one call of the model and one gradient of the
classifier, or one call of eps'.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float, Int
from diffmem.denoiser.protocol import Denoiser
from diffmem.diffusion import guidance, process


class Target(NamedTuple):
  """Where to guide: classes int [b], scales [b]."""

  classes: Int[AnyArray, " b"]
  scales: Float[AnyArray, " b"]


def by_classifier(
  denoiser: Denoiser,
  classify: Callable[..., Any],
  params: Any,
) -> Denoiser:
  """Guided by classify(params, x_t, t) -> logits [b classes].

  Its params are {"model", "classifier"}. Conditions that the model has of its
  own are left at null.
  """

  def gradient(params, x_t, t, classes):
    return guidance.classifier_gradient(classify, params, x_t, t, classes)

  if not denoiser.traceable:  # called from a host loop
    gradient = jax.jit(gradient)

  def guided(params, x_t, t, eps, target):
    _, noise = process.levels(process.per_image(t), denoiser.schedule.alpha_bar)
    towards = gradient(params["classifier"], x_t, t, target.classes)
    return guidance.classifier_guided(eps, towards, noise, target.scales)

  return _denoiser(
    denoiser, guided, {"model": denoiser.params, "classifier": params}
  )


def by_adapters(
  denoiser: Denoiser, apply: Callable[..., Any], params: Any
) -> Denoiser:
  """Guided by apply(params, x_t, t, class) -> the eps of the adapted model.

  Its params are {"model", "adapted"}.
  """

  def guided(params, x_t, t, eps, target):
    adapted = apply(params["adapted"], x_t, t, target.classes)
    scales = target.scales[:, None, None, None]
    return eps + scales * (adapted - eps)

  return _denoiser(
    denoiser, guided, {"model": denoiser.params, "adapted": params}
  )


def _denoiser(base: Denoiser, guided: Callable[..., Any], params: Any):
  """The denoiser with params of both; its network gives eps."""

  def apply(params, x_t, t, target):
    cond = None
    if base.null_cond is not None:
      cond = jax.tree.map(
        lambda null: np.broadcast_to(null, (len(x_t), *np.shape(null))),
        base.null_cond,
      )
    eps, fraction = base.predict(params["model"], x_t, t, cond)
    eps = guided(params, x_t, t, eps, target)
    if fraction is None:
      return eps
    return jnp.concatenate([eps, 2.0 * fraction - 1.0], axis=-1)

  return dataclasses.replace(
    base,
    eps=None,
    apply=apply,
    params=params,
    null_cond=None,
    num_classes=None,
    prediction="eps",
  )

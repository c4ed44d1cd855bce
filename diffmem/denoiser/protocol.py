# SPDX-License-Identifier: Apache-2.0
"""What samplers and attacks know of a diffusion model.

A denoiser predicts the eps in x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) eps, for
x0 in [-1, 1], t an int index (0 the least noise) and cond a condition per
example or None. Whatever else an attack needs is a field that may be missing;
`require` then refuses by that field's name.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffmem.arrays import AnyArray, Float, Int
from diffmem.diffusion import process
from diffmem.diffusion.schedules import Schedule

Images = Float[AnyArray, "b h w c"]


@dataclasses.dataclass(frozen=True, eq=False)
class Denoiser:
  """A noise predictor with its schedule; give `eps`, or `apply` and `params`.

  Attributes:
    eps: eps(x_t [b h w c], t int [b], cond) -> predicted noise [b h w c].
      Made from apply and params when left out.
    schedule: the noise levels that t indexes.
    shape: (h, w, c) of x_t.
    null_cond: the condition that means none, without the batch axis.
    params: the weights, a tree of arrays.
    apply: apply(params, x_t, t, cond) -> the network's output, without
      dropout: [b h w c], or [b h w 2c] with a learned variance.
    encode: images -> x0, for a model of latents.
    decode: x0 -> images, for a model of latents.
    traceable: whether JAX can trace eps or apply (jit, grad); if not,
      samplers and attacks loop on the host.
    learned_variance: whether apply gives 2c channels.
    num_classes: how many class labels cond may take, if it is labels.
    low: (y, x, c) of the images that it enlarges, given as cond["low"] with
      their noise level as cond["level"]; None where it enlarges none.
    prediction: what apply predicts: "eps", "x0" or "v".
  """

  eps: Callable[..., Any] | None = None
  schedule: Any = None  # a Schedule and (h, w, c): leaving them out is
  shape: Any = None  # refused in words, so that None must be let in
  _: dataclasses.KW_ONLY
  null_cond: Any = None
  params: Any = None
  apply: Callable[..., Any] | None = None
  encode: Callable[..., Any] | None = None
  decode: Callable[..., Any] | None = None
  traceable: bool = True
  learned_variance: bool = False
  num_classes: int | None = None
  low: tuple[int, int, int] | None = None
  prediction: str = "eps"

  def __post_init__(self):
    if not isinstance(self.schedule, Schedule):
      raise ValueError(
        f"Denoiser.schedule={self.schedule!r}: give the model's, such as"
        f" diffmem.diffusion.schedules.linear(steps=1000)"
      )
    if self.shape is None or len(self.shape) != 3:
      raise ValueError(f"Denoiser.shape={self.shape!r}: give (h, w, c)")
    if (self.apply is None) != (self.params is None):
      missing = "apply" if self.apply is None else "params"
      raise ValueError(
        f"Denoiser.{missing} is missing: apply and params come together"
      )
    if self.eps is None and self.apply is None:
      raise ValueError("Denoiser.eps is missing: give it, or apply and params")
    if self.learned_variance and self.apply is None:
      raise ValueError(
        "Denoiser.learned_variance needs apply and params: eps has no variance"
      )
    process.check_prediction(self.prediction)
    if self.eps is None:
      object.__setattr__(self, "eps", self._plain_eps)

  def predict(
    self, params: Any, x_t: Images, t: Int[AnyArray, " b"], cond: Any = None
  ) -> tuple[Float[jax.Array, "b h w c"], Images | None]:
    """(eps, variance fraction or None) [b h w c] each, float32.

    `params` is explicit so that the caller may place it on devices; a
    denoiser without params ignores it.
    """
    if self.apply is None:
      assert self.eps is not None
      return jnp.asarray(self.eps(x_t, t, cond), jnp.float32), None
    output = jnp.asarray(self.apply(params, x_t, t, cond), jnp.float32)
    fraction = None
    if self.learned_variance:
      output, fraction = process.split_output(output)
    alpha_bar = self.schedule.alpha_bar
    eps = process.convert(
      output, x_t, t, alpha_bar, source=self.prediction, target="eps"
    )
    return eps, fraction

  def require(self, *fields: str, by: str) -> None:
    """Raises ValueError naming the first of `fields` that is missing."""
    for field in fields:
      if getattr(self, field) is None:
        raise ValueError(
          f"{by} needs Denoiser.{field}, which this denoiser lacks:"
          f" pass Denoiser(..., {field}=...)"
        )

  def _plain_eps(
    self, x_t: Images, t: Int[AnyArray, " b"], cond: Any = None
  ) -> Float[jax.Array, "b h w c"]:
    return self.predict(self.params, x_t, t, cond)[0]

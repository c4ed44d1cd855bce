# SPDX-License-Identifier: Apache-2.0
"""Anti-memorization guidance: away from the nearest training image.

At each step the clean prediction x0 = (x_t - s eps) / a is compared with the
training images y_j (the references), by the negative normalized distance

  sigma = -|x0 - y_(1)| / (alpha mean_{j <= k} |x0 - y_(j)|)

over its k nearest. Only where sigma exceeds the threshold

  lambda_t = -(early + (late - early) exp(-decay t / steps))

is eps changed, with e_c, e_0 and e_N its predictions for the condition, for
none, and for the nearest image's own condition, s0 the guidance scale:

  eps += - s1 (e_c - e_0) - s2 (e_N - e_0) + similarity s grad_{x_t} sigma
  s1 = clip(despecify (sigma - lambda_t), 0, s0 - 1)
  s2 = clip(deduplicate (sigma - lambda_t), 0, s0 - 1 - s1)

Chen, Liu & Xu, "Towards Memorization-Free Diffusion Models", CVPR 2024,
equations 8 and 10 to 17; its supplement has alpha 0.5, k 50, early 1.95, late
1.5 and decay 6.25 for CIFAR-10. Its s1 and s2 are proportional to sigma, which
suits the cosine of a descriptor but not a negative distance: here to sigma -
lambda_t. Its gradient goes through the network (`through="network"`); with
"x0" that of x0 is taken as 1 / a, which costs no backward pass.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import AnyArray, Float, Int
from diffmem.denoiser import Denoiser, conditions
from diffmem.diffusion import guidance as guiding
from diffmem.diffusion import process

THROUGH = ("x0", "network")
_SMALLEST = 1e-12  # of a squared distance: an exact copy has no direction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """The strengths and the threshold; see the module.

  Attributes:
    similarity, despecify, deduplicate: the three strengths; 0 is off.
    early, late, decay: of the threshold, in normalized distances.
    alpha, neighbours: of the normalized distance.
    through: one of THROUGH.
  """

  similarity: float
  despecify: float
  deduplicate: float
  early: float
  late: float
  decay: float
  alpha: float
  neighbours: int
  through: str

  def __post_init__(self):
    for name in ("similarity", "despecify", "deduplicate", "decay"):
      if not getattr(self, name) >= 0:
        raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
    for name in ("early", "late", "alpha"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name}={getattr(self, name)}: expected more than 0")
    if self.through not in THROUGH:
      raise ValueError(
        f"through={self.through!r}: choose one of {', '.join(THROUGH)}"
      )


def guided(
  denoiser: Denoiser,
  references: Float[AnyArray, "n h w c"],
  *,
  guidance: float = 1.0,
  reference_cond: Any = None,
  **options: Any,
) -> Denoiser:
  """The denoiser with classifier-free and anti-memorization guidance.

  It is a denoiser like any other (chain it with guidance=1); its params are
  {"model", "references", "reference_cond"}.

  Args:
    denoiser: the model.
    references: training images in [-1, 1], each once; a model of latents has
      them encoded.
    guidance: the classifier-free scale s0.
    reference_cond: the condition of each, for `deduplicate`.
    **options: those of `Options`.

  Raises:
    ValueError: options that cannot be, or references that do not fit.
  """
  given = Options(**options)
  _check(denoiser, references, guidance, reference_cond, given)
  if denoiser.encode is not None:
    references = np.asarray(denoiser.encode(references), np.float32)
  params = {
    "model": denoiser.params,
    "references": _prepared(references),
    "reference_cond": reference_cond if given.deduplicate else None,
  }
  predict = _predict(denoiser, guidance, given)

  def apply(params, x_t, t, cond=None):
    eps, fraction = predict(params, x_t, t, cond)
    if fraction is None:
      return eps
    return jnp.concatenate([eps, 2.0 * fraction - 1.0], axis=-1)

  return dataclasses.replace(
    denoiser, eps=None, apply=apply, params=params, prediction="eps"
  )


def _check(denoiser, references, guidance, reference_cond, given) -> None:
  if references.ndim != 4 or len(references) < 2:
    raise ValueError(
      f"references have shape {tuple(references.shape)}: give two or more"
      " images [n h w c]"
    )
  shape = tuple(references.shape[1:])
  if denoiser.encode is None and shape != tuple(denoiser.shape):
    raise ValueError(
      f"references are {shape}, the model makes {tuple(denoiser.shape)}"
    )
  if not 2 <= given.neighbours <= len(references):
    raise ValueError(
      f"neighbours={given.neighbours} of {len(references)} references:"
      " expected at least 2, and no more than there are"
    )
  if given.through == "network" and not denoiser.traceable:
    raise ValueError("through='network' needs a model that JAX can trace")
  if guidance != 1.0 or given.despecify or given.deduplicate:
    denoiser.require("null_cond", by="guidance by conditions")
  if given.deduplicate and reference_cond is None:
    raise ValueError("deduplicate needs the references' conditions")


def _prepared(references: Float[AnyArray, "n h w c"]) -> dict[str, jax.Array]:
  """References about their mean: the squares that are expanded are small."""
  flat = np.asarray(references, np.float64).reshape(len(references), -1)
  mean = flat.mean(0)
  return {
    "mean": jnp.asarray(mean, jnp.float32),
    "centred": jnp.asarray(flat - mean, jnp.float32),
    "half_norms": jnp.asarray(((flat - mean) ** 2).sum(1) / 2, jnp.float32),
  }


def _predict(denoiser: Denoiser, guidance: float, given: Options):
  """(params, x_t, t, cond) -> (eps, fraction)."""
  schedule, null = denoiser.schedule, conditions.null(denoiser)

  def plain(params, x_t, t, cond):
    """(eps, (e_c, e_0), fraction)."""
    if cond is None and guidance != 1.0:
      raise ValueError(f"guidance={guidance} needs cond, got None")
    if cond is None or (guidance == 1.0 and not given.deduplicate):
      eps, fraction = denoiser.predict(params["model"], x_t, t, cond)
      return eps, None, fraction
    one, none, fraction = guiding.both(
      denoiser.predict, params["model"], x_t, t, cond, null
    )
    eps = guiding.classifier_free(one, none, guidance)
    return eps, (one, none), fraction

  def predict(params, x_t, t, cond):
    a, s = process.levels(process.per_image(t), schedule.alpha_bar)

    def clean(x):
      eps, both, fraction = plain(params, x, t, cond)
      return jnp.clip((x - s * eps) / a, -1.0, 1.0), (eps, both, fraction)

    if given.through == "network":
      x0, back, (eps, both, fraction) = jax.vjp(clean, x_t, has_aux=True)
    else:
      x0, (eps, both, fraction) = clean(x_t)
      back = lambda g: (g / a,)  # noqa: E731
    if denoiser.decode is not None:  # latents are in no range
      x0 = (x_t - s * eps) / a
    sigma, gradient, nearest = similarity(
      params["references"], x0, given.alpha, given.neighbours
    )
    over = sigma - threshold(given, t, schedule.steps)
    away = jnp.where(_wide(over > 0), back(gradient)[0], 0.0)
    eps = eps + given.similarity * s * away
    if both is None:
      return eps, fraction
    one, none = both
    slower = jnp.clip(given.despecify * over, 0.0, guidance - 1.0)
    eps = eps - _wide(slower) * (one - none)
    if given.deduplicate:
      known = conditions.take(params["reference_cond"], nearest)
      own, _ = denoiser.predict(params["model"], x_t, t, known)
      against = jnp.clip(given.deduplicate * over, 0.0, guidance - 1.0 - slower)
      eps = eps - _wide(against) * (own - none)
    return eps, fraction

  return predict


def threshold(
  given: Options, t: Int[AnyArray, " b"], steps: int
) -> Float[jax.Array, " b"]:
  """lambda_t, negative."""
  share = jnp.asarray(t, jnp.float32) / steps
  return -(
    given.early + (given.late - given.early) * jnp.exp(-given.decay * share)
  )


def similarity(
  references: dict[str, jax.Array],
  x0: Float[AnyArray, "b h w c"],
  alpha: float,
  neighbours: int,
) -> tuple[
  Float[jax.Array, " b"],
  Float[jax.Array, "b h w c"],
  Int[jax.Array, " b"],
]:
  """(sigma, its gradient by x0, the nearest reference) of each image."""
  x = x0.reshape(len(x0), -1) - references["mean"][None]
  product = jnp.matmul(
    x, references["centred"].T, precision=jax.lax.Precision.HIGHEST
  )
  _, near = jax.lax.top_k(product - references["half_norms"][None], neighbours)
  others = references["centred"][near]

  def sigma(x, others):  # of one image, its neighbours held fixed
    squares = ((x[None] - others) ** 2).sum(-1)
    far = squares > _SMALLEST
    lengths = jnp.where(far, jnp.sqrt(jnp.where(far, squares, 1.0)), 0.0)
    least = jnp.argmin(lengths)
    return -lengths[least] / (alpha * lengths.mean()), least

  (value, least), gradient = jax.vmap(jax.value_and_grad(sigma, has_aux=True))(
    x, others
  )
  nearest = jnp.take_along_axis(near, least[:, None], axis=1)[:, 0]
  return value, gradient.reshape(x0.shape), nearest


def _wide(values: AnyArray) -> AnyArray:
  """One number per example, shaped to multiply images."""
  return values[:, None, None, None]

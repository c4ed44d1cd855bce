# SPDX-License-Identifier: Apache-2.0
"""The likelihood-ratio attack (LiRA): is the loss as of models trained on x?

With phi = -log loss, or -loss (higher for members), of each image, mu_in and
mu_out the means of phi over shadow models trained and not trained on it, and
sigma_in, sigma_out their spreads, the score of a target's phi is

  online           log N(phi; mu_in, sigma_in) - log N(phi; mu_out, sigma_out)
  offline          z = (phi - mu_out) / sigma_out; the paper's one-sided
                   1 - Pr[N(mu_out, sigma_out) > phi] is Phi(z), which orders
                   images alike but rounds to 1 beyond z = 8
  offline-density  -log N(phi; mu_out, sigma_out): two-sided, so that a loss
                   far too high counts as membership as well

sigma is pooled over images ("fixed", the choice for few models),

  sigma_in^2 = sum_i sum_s (phi_si - mu_in_i)^2 / sum_i (n_in_i - 1),

and likewise sigma_out from OUT models alone, or it is each image's own
("example", n - 1 in the denominator). Noise draws are averaged before phi is
taken; augmentations too ("mean"), or each has its own fit and the scores are
averaged ("each").

Carlini et al., "Membership Inference Attacks From First Principles", 2022,
equations 3 and 4; for diffusion models Carlini et al. 2023, section 5.2.
"""

import numpy as np

from diffmem.arrays import AnyArray, Bool, Float
from diffmem.membership import matrices

VARIANTS = ("online", "offline", "offline-density")
VARIANCES = ("fixed", "example")
AUGMENTATIONS = ("mean", "each")


def score(
  target: Float[AnyArray, "n *rest"],
  shadows: Float[AnyArray, "s n *rest"],
  masks: Bool[np.ndarray, "s n"],
  *,
  variant: str = "online",
  variance: str = "fixed",
  statistic: str = "log",
  augmentations: str = "mean",
) -> Float[np.ndarray, " n"]:
  """Scores of images under one model; higher means member.

  Args:
    target: losses under the model, [n], [n draws] or [n draws augmentations].
    shadows: the same losses under each shadow model.
    masks: whether shadow s was trained on image n.
    variant: one of VARIANTS.
    variance: one of VARIANCES.
    statistic: one of `matrices.FORMS`.
    augmentations: one of AUGMENTATIONS.

  Raises:
    ValueError: an image is IN or OUT of too few models, a loss is not finite,
      losses do not vary, or shapes disagree.
  """
  for name, value, choices in (
    ("variant", variant, VARIANTS),
    ("variance", variance, VARIANCES),
    ("augmentations", augmentations, AUGMENTATIONS),
  ):
    if value not in choices:
      raise ValueError(f"{name} {value!r}: choose one of {', '.join(choices)}")
  target, shadows = np.asarray(target), np.asarray(shadows)
  online = variant == "online"
  least = 2 if variance == "example" else 1
  matrices.check(
    target, shadows, masks, inside=least if online else 0, outside=least
  )
  together = augmentations == "mean"
  phi, others = (
    matrices.statistic(
      matrices.averaged(losses, axes, augmentations=together), statistic
    )
    for losses, axes in ((target, 1), (shadows, 2))
  )
  if together:
    return _compare(phi, others, masks, variant, variance)
  each = [
    _compare(phi[:, a], others[:, :, a], masks, variant, variance)
    for a in range(phi.shape[1])
  ]
  return np.mean(each, axis=0)


def _compare(
  phi: Float[np.ndarray, " n"],
  others: Float[np.ndarray, "s n"],
  masks: Bool[np.ndarray, "s n"],
  variant: str,
  variance: str,
) -> Float[np.ndarray, " n"]:
  order_only = variant == "offline"
  out = _fit("OUT", others, ~masks, variance, order_only)
  if variant == "offline":
    return (phi - out[0]) / out[1]
  if variant == "offline-density":
    return -_log_normal(phi, *out)
  inside = _fit("IN", others, masks, variance, order_only)
  return _log_normal(phi, *inside) - _log_normal(phi, *out)


def _fit(
  side: str,
  phi: Float[np.ndarray, "s n"],
  used: Bool[np.ndarray, "s n"],
  variance: str,
  order_only: bool,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
  """Mean and spread of each image over the models `used`.

  With one model a side there is no spread to pool. Where only the order of
  the scores depends on it, which it then does not, 1 is taken.
  """
  count = used.sum(axis=0)
  mean = np.where(used, phi, 0.0).sum(axis=0) / count
  squares = np.where(used, phi - mean, 0.0) ** 2
  free = count - 1
  if variance == "example":
    spread = np.sqrt(squares.sum(axis=0) / free)
  elif free.sum():
    spread = np.full(len(mean), np.sqrt(squares.sum() / free.sum()))
  elif order_only:
    return mean, np.ones(len(mean))
  else:
    raise ValueError(
      f"every image is {side} a single shadow model: no spread can be told, "
      "train more pairs of shadows or use variant='offline'"
    )
  flat = int(np.count_nonzero(spread <= 1e-12 * np.abs(mean)))
  if flat:
    raise ValueError(
      f"{flat} of {len(mean)} images have the same loss under all models that "
      f"they are {side}: no spread can be told, look at the weights or use "
      "variance='fixed'"
    )
  return mean, spread


def _log_normal(
  phi: Float[np.ndarray, " n"],
  mean: Float[np.ndarray, " n"],
  spread: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
  z = (phi - mean) / spread
  return -0.5 * z**2 - np.log(spread) - 0.5 * np.log(2 * np.pi)

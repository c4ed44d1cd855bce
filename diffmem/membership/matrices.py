# SPDX-License-Identifier: Apache-2.0
"""Losses of many models as one matrix: checked, averaged, compared in pairs.

Attacks with shadow models work on losses [model, image] and on a mask that
says which model was trained on which image. Further axes are noise draws and
augmentations, [.., draws, augmentations], with noise common to all models.

Models come in pairs (2j, 2j + 1) trained on complementary halves. The score
of one model leaves out both of its pair: every image is then IN as many of
the others as it is OUT of. Leaving out that model alone does not do: its own
members would be IN one model fewer than the rest, and such counts betray
membership through any statistic that depends on them, even of pure noise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffmem.arrays import AnyArray, Bool, Float

FORMS = ("log", "loss")


def statistic(
  losses: Float[AnyArray, "..."], form: str
) -> Float[np.ndarray, "..."]:
  """What a Gaussian is fitted to; higher for members.

  "log": -log loss, whose spread differs less from image to image.
  "loss": -loss, as Carlini et al. 2023 write it; any lower-is-member number.
  """
  if form not in FORMS:
    raise ValueError(f"statistic {form!r}: choose one of {', '.join(FORMS)}")
  losses = np.asarray(losses, np.float64)
  if form == "loss":
    return -losses
  low = losses.min()
  if low <= 0:
    raise ValueError(
      f"a loss is {low:g}, which has no logarithm: use statistic='loss'"
    )
  return -np.log(losses)


def averaged(
  losses: Float[AnyArray, "..."], axes: int, *, augmentations: bool
) -> Float[np.ndarray, "..."]:
  """Means over noise draws, and over augmentations if asked, in float64.

  Args:
    losses: `axes` leading axes, then none, [draws] or [draws augmentations].
    axes: 1 for one model [n ..], 2 for several [s n ..].
    augmentations: whether to average these too; otherwise they stay as the
      last axis, one long where there are none.
  """
  values: Any = np.asarray(losses, np.float64)
  if not axes <= values.ndim <= axes + 2:
    raise ValueError(
      f"losses have shape {values.shape}: expected {axes} axes, then none, "
      "[draws] or [draws, augmentations]"
    )
  if values.ndim == axes:
    values = values[..., None]
  values = values.mean(axis=axes)
  if values.ndim == axes:
    return values if augmentations else values[..., None]
  return values.mean(axis=-1) if augmentations else values


def check(
  target: Float[AnyArray, "..."],
  shadows: Float[AnyArray, "..."],
  masks: Bool[np.ndarray, "..."],
  *,
  inside: int,
  outside: int,
) -> None:
  """ValueError unless these can be compared.

  Args:
    target: losses of the model under attack, [n ..].
    shadows: of the shadow models, [s n ..].
    masks: whether shadow s was trained on image n.
    inside, outside: how many models each image must be IN and OUT of.
  """
  if shadows.ndim < 2 or shadows.shape[1:] != target.shape or not target.size:
    raise ValueError(
      f"losses of the target have shape {target.shape}, of the shadows "
      f"{shadows.shape}: expected [n ..] and [models n ..] of the same images"
    )
  check_masks(shadows, masks)
  check_losses("target", target)
  check_losses("shadow", shadows)
  n_in = masks.sum(axis=0)
  sides = (("IN", n_in, inside), ("OUT", len(masks) - n_in, outside))
  for side, counts, least in sides:
    few = int(np.count_nonzero(counts < least))
    if few:
      raise ValueError(
        f"{few} of {len(counts)} images are {side} fewer than {least} of the "
        f"{len(masks)} shadow models: train more pairs of shadows"
      )


def check_masks(
  losses: Float[AnyArray, "..."], masks: Bool[np.ndarray, "..."]
) -> None:
  """ValueError unless the masks are of these models and images."""
  if masks.shape != losses.shape[:2]:
    raise ValueError(
      f"masks have shape {masks.shape}, losses {losses.shape}: expected one "
      "mask for each model and image; are they of this split?"
    )


def check_losses(name: str, losses: Float[AnyArray, "..."]) -> None:
  """ValueError if some are not finite, or all are the same."""
  losses = np.asarray(losses)
  bad = int(np.count_nonzero(~np.isfinite(losses)))
  if bad:
    raise ValueError(
      f"{bad} of {losses.size} {name} values are NaN or infinite: expected "
      "finite ones, look at the weights"
    )
  if losses.size > 1 and losses.min() == losses.max():
    raise ValueError(
      f"all {losses.size} {name} values are {losses.flat[0]:g}: constants "
      "tell nothing, look at the weights"
    )


def check_pairs(masks: Bool[np.ndarray, "m n"]) -> None:
  """ValueError unless rows 2j and 2j + 1 are complements."""
  if len(masks) < 4 or len(masks) % 2:
    raise ValueError(
      f"{len(masks)} models: expected an even number, 4 or more, so that "
      "leaving out one pair leaves others"
    )
  for j in range(0, len(masks), 2):
    both = int(np.count_nonzero(masks[j] == masks[j + 1]))
    if both:
      raise ValueError(
        f"models {j} and {j + 1} are not a pair: they agree on {both} of "
        f"{masks.shape[1]} images, expected complementary halves"
      )


def leave_pair_out(
  fn: Callable[..., Float[np.ndarray, " n"]],
  signals: Float[AnyArray, "m n *rest"],
  masks: Bool[np.ndarray, "m n"],
) -> Float[np.ndarray, "m n"]:
  """Each model scored by all models outside its pair.

  Args:
    fn: (target [n ..], shadows [s n ..], masks [s n]) -> scores [n], such as
      `functools.partial(lira.score, variant="online")`.
    signals: losses of each model.
    masks: whether model m was trained on image n; rows 2j and 2j + 1 are
      complements.

  Raises:
    ValueError: models that are not paired, too few, or of other images.
  """
  signals = np.asarray(signals)
  check_masks(signals, masks)
  check_pairs(masks)
  rows = np.arange(len(masks))
  scores = []
  for m in rows:
    others = rows // 2 != m // 2
    scores.append(fn(signals[m], signals[others], masks[others]))
  return np.stack(scores)

# SPDX-License-Identifier: Apache-2.0
"""Which augmentation a discriminator's inputs get, and what steers it.

  none         as they are
  diffaugment  `gan_diffaugment`, always
  ada          `gan_ada`, with a probability that follows the overfitting of
               the discriminator, or is fixed (target=None)

An augmentation is differentiable, the same for real and generated images, and
its state, {"p", "signs", "seen"}, is part of the training's.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from diffmem.train import gan_ada, gan_diffaugment

State = dict[str, jax.Array]
# name -> the keys of its section
KEYS = {
  "none": {"name"},
  "diffaugment": {"name", "policy"},
  "ada": {
    *("name", "blit", "geometry", "colour"),
    *("start", "target", "interval", "images"),
  },
}


@dataclasses.dataclass(frozen=True)
class Augment:
  """See the module.

  Attributes:
    apply: (images [b h w c], key, state) -> images.
    control: (state, logits of real images [b]) -> state.
    start: p of the first step.
  """

  apply: Callable[..., Any]
  control: Callable[..., State]
  start: float = 0.0

  def init(self) -> State:
    """The state of the first step."""
    return gan_ada.init(self.start)


def create(section: Mapping[str, Any]) -> Augment:
  """The augmentation of the config section adversarial.augment.

  Raises:
    ValueError: an unknown name, or other keys than its own.
  """
  name = section.get("name")
  if name not in KEYS:
    raise ValueError(
      f"adversarial.augment.name={name!r}: choose one of {', '.join(KEYS)}"
    )
  if set(section) != KEYS[name]:
    raise ValueError(
      f"adversarial.augment has the keys {', '.join(sorted(section))}; "
      f"{name} takes {', '.join(sorted(KEYS[name]))}"
    )
  if name == "none":
    return Augment(lambda x, key, state: x, _kept)
  if name == "diffaugment":
    policy = tuple(section["policy"])
    gan_diffaugment.check(policy)
    return Augment(
      lambda x, key, state: gan_diffaugment.augment(x, key, policy=policy),
      _kept,
    )
  return _ada(section)


def _ada(section: Mapping[str, Any]) -> Augment:
  if not 0 <= section["start"] <= 1:
    raise ValueError(
      f"adversarial.augment.start={section['start']} must lie in [0, 1]"
    )
  for key in ("interval", "images"):
    if section[key] < 1:
      raise ValueError(
        f"adversarial.augment.{key}={section[key]} must be at least 1"
      )
  groups = {key: section[key] for key in ("blit", "geometry", "colour")}

  def apply(x, key, state):
    return gan_ada.augment(x, key, state["p"], **groups)

  control = _kept
  if section["target"] is not None:
    control = functools.partial(
      gan_ada.control,
      **{key: section[key] for key in ("target", "interval", "images")},
    )
  return Augment(apply, control, section["start"])


def _kept(state: State, logits: Any) -> State:
  del logits
  return state

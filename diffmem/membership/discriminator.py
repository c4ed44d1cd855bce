# SPDX-License-Identifier: Apache-2.0
"""The discriminator attack: what a GAN was trained on looks real to it.

  values[i, 0, 0, a] = -D(a(x_i))
  score[i] = mean over augmentations a of D(a(x_i)),  higher means member

D the discriminator's logit, without augmentation or dropout, a function of
this image alone. With shadow GANs the values are what LiRA reads: the logit of
the probability that x is real (statistic="loss", for they have either sign).
There is one time, 0, and one draw: nothing is drawn.

(Hayes et al. 2019, LOGAN, white-box; Carlini et al. 2023, section 6, with
shadow models.)
"""

import jax

from diffmem.membership import loss, signals
from diffmem.membership.protocol import Attack


def logits(critic, params, images, cond) -> jax.Array:
  """D [b] of images [b h w c]."""
  return critic.apply(params, images, None, cond)


def _block(queries, images, cond, *, t, augment):
  del t
  return [
    -queries.call(logits, loss.AUGMENTATIONS[name](images), cond)
    for name in augment
  ]


def _shape(critic, *, t, augment):
  del critic
  check_times(t)
  loss.check_augment(augment)
  return (1, 1, len(augment))


def check_times(t) -> None:
  """ValueError for other times than 0."""
  if tuple(t) != (0,):
    raise ValueError(
      f"t = {tuple(t)} of discriminator: a GAN has one time, set "
      "membership.t=(0,)"
    )


ATTACK = Attack(
  name="discriminator",
  source="Hayes et al. 2019; Carlini et al. 2023, section 6",
  signal=signals.Signal("logits", _block, _shape),
  scores=loss.scores,
  defaults={"augment": ("identity",), "over": "mean"},
  queries=lambda *, t, augment, **_: len(t) * len(augment),
  of="GAN",
)

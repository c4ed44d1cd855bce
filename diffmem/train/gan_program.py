# SPDX-License-Identifier: Apache-2.0
"""From the config sections of a GAN to the program that trains it.

The section `adversarial` stands in the place of `diffusion`:

  loss              of `gan_losses`
  penalties         name -> weight, every and the options of `gan_penalties`
  augment           of `gan_augment`
  negatives         {"name", "share"} of `gan_negatives`, or None
  updates           of the discriminator in a step
  discriminator_lr  its learning rate; the generator's is train.lr
  betas             of Adam, for both
"""

from collections.abc import Mapping
from typing import Any

import optax

from diffmem.train import (
  gan_augment,
  gan_losses,
  gan_negatives,
  gan_step,
)
from diffmem.train import state as states

LIMIT = 1e6  # losses and gradients of this size do not come back
KEYS = {
  "loss",
  "penalties",
  "augment",
  "negatives",
  "updates",
  "discriminator_lr",
  "betas",
}
# name -> the options of its section, beside weight and every
PENALTIES = {
  "r1": set(),
  "gradient": {"one_sided"},
  "lipschitz": {"k", "xi", "least", "most"},
  "path_length": {"decay", "shrink"},
}


def parts(gan: Any, adversarial: Mapping[str, Any], train: dict):
  """What a step is composed of: a `gan_step.Parts`.

  Args:
    gan: see diffmem.models.gan.
    adversarial, train: the config sections.

  Raises:
    ValueError: a key or a value that is none.
  """
  check(adversarial)
  rates = {
    name: states.learning_rate(
      lr=lr,
      warmup=train["warmup"],
      steps=train["steps"],
      decay=train["decay"],
    )
    for name, lr in (
      ("generator", train["lr"]),
      ("discriminator", adversarial["discriminator_lr"]),
    )
  }
  b1, b2 = adversarial["betas"]
  negatives = adversarial["negatives"]
  return gan_step.Parts(
    gan=gan,
    loss=gan_losses.create(adversarial["loss"]),
    penalties=adversarial["penalties"],
    augment=gan_augment.create(adversarial["augment"]),
    negatives=None if negatives is None
    else gan_negatives.create(negatives["name"]),
    share=0.0 if negatives is None else negatives["share"],
    tx={
      name: optax.adam(rate, b1=b1, b2=b2) for name, rate in rates.items()
    },
    rate=rates["generator"],
    updates=adversarial["updates"],
    ema=train["ema"],
  )  # fmt: skip


def check(adversarial: Mapping[str, Any]) -> None:
  """ValueError unless the section has what a step needs."""
  _keys("adversarial", set(adversarial), KEYS)
  for name, section in adversarial["penalties"].items():
    where = f"adversarial.penalties.{name}"
    if name not in PENALTIES:
      raise ValueError(f"{where}: choose of {', '.join(PENALTIES)}")
    _keys(where, set(section), PENALTIES[name] | {"weight", "every"})
    if section["every"] < 1 or section["weight"] < 0:
      raise ValueError(
        f"{where} has weight={section['weight']}, every={section['every']}: "
        "expected a weight of 0 or more, every 1 or more"
      )
  negatives = adversarial["negatives"]
  if negatives is not None:
    _keys("adversarial.negatives", set(negatives), {"name", "share"})
    if not 0 < negatives["share"] < 1:
      raise ValueError(
        f"adversarial.negatives.share={negatives['share']} must lie in (0, 1)"
      )
  if adversarial["updates"] < 1:
    raise ValueError(
      f"adversarial.updates={adversarial['updates']} must be at least 1"
    )


def _keys(where: str, given: set[str], expected: set[str]) -> None:
  if given != expected:
    raise ValueError(
      f"{where} has the keys {', '.join(sorted(given)) or 'none'}; expected "
      f"{', '.join(sorted(expected))}"
    )

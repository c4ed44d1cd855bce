# SPDX-License-Identifier: Apache-2.0
"""A GAN from a workdir: its generator draws, its discriminator judges.

Its weights are {"generator", "discriminator"}, each {"params", "state"}: the
average of the generator's, and the discriminator's as training left them. A
workdir is of a GAN where the config has a section `adversarial` in the place
of `diffusion`.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from diffmem import keys, workdir
from diffmem.arrays import AnyArray, Float, Int, Key
from diffmem.denoiser import weights
from diffmem.models import gan


@dataclasses.dataclass(frozen=True)
class Network:
  """Both networks of a GAN as one, for what trains and counts.

  `text` and `low` are of denoisers that take captions or enlarge images.
  """

  gan: gan.GAN
  text: None = None
  low: None = None

  @property
  def num_classes(self) -> int | None:
    """How many classes it takes, or None."""
    return self.gan.num_classes

  def init(self, key: Key[jax.Array, ""]) -> dict[str, Any]:
    """Fresh weights of both."""
    return {
      name: getattr(self.gan, name).init(keys.stream(key, name))
      for name in ("generator", "discriminator")
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
  """A GAN with its weights."""

  gan: gan.GAN
  params: dict[str, Any]

  def draw(
    self,
    params: Any,
    ids: Int[AnyArray, " b"],
    key: Key[jax.Array, ""],
  ) -> Float[jax.Array, "b h w c"]:
    """Images of ids: z and the noise inputs are functions of each id.

    Classes, if any, take turns by id.
    """

    def one(own, i):
      z = jax.random.normal(keys.stream(own, "z"), (1, self.gan.latent))
      classes = self.gan.num_classes
      cond = None if classes is None else (i % classes)[None]
      images, _ = self.gan.generator.apply(
        params["generator"], z, cond, key=keys.stream(own, "noise")
      )
      return images[0]

    return jax.vmap(one)(keys.per_id(key, ids), jax.numpy.asarray(ids))


def is_gan(config: Mapping[str, Any]) -> bool:
  """Whether a config, or that of a meta.json, is of a GAN."""
  return config.get("adversarial") is not None


def network(shape: Sequence[int], models: dict) -> Network:
  """The networks of the config section `models`."""
  h, w, c = shape
  return Network(gan.create(**models, shape=(h, w, c)))


def build(shape: Sequence[int], models: dict, params: Any) -> Trained:
  """The GAN of the same section with these weights."""
  return Trained(network(shape, models).gan, params)


def load(root: str | os.PathLike, *, step: int | None = None) -> Trained:
  """The weights of a finished training; see `trained.load`.

  Raises:
    FileNotFoundError: the train stage has not finished.
    ValueError: it is of no GAN, the checkpoint is damaged, or a weight is not
      finite.
  """
  meta = workdir.require(root, "train")
  config = meta["config"]
  if not is_gan(config):
    raise ValueError(
      f"{workdir.path(root) / 'train'} is of a denoiser "
      f"({config['models']['name']}), which has no discriminator"
    )
  both = network(meta["shape"], config["models"])
  params = weights.restore(
    root, both.init, config["train"]["steps"] if step is None else step
  )
  return Trained(both.gan, params)

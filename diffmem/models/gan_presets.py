# SPDX-License-Identifier: Apache-2.0
"""Knobs of published GANs, as dicts for `models.gan.create`.

  model = gan.create(shape=(32, 32, 3), **gan_presets.stylegan_ada_cifar10())

Sizes are those that the authors trained on CIFAR-10, from the papers and the
settings in their repositories: Karras et al. 2020, arXiv:2006.06676 (`cifar`);
Zhao et al. 2020, arXiv:2006.10738, BigGAN with DiffAugment; Tian et al. 2020,
arXiv:2007.09180, E2GAN; Sinha et al. 2021,
arXiv:2102.05113, NDA, BigGAN without classes; Terjek 2020, arXiv:1907.05681,
WGAN-ALP, the ResNet of Gulrajani et al. 2017. Numbers of parameters are of the
generator and of the discriminator, at 32x32x3.

The `_small` ones are for 8x8 to 32x32 grey images on CPUs.
"""

from typing import Any

from diffmem.models import e2gan


def stylegan_ada_cifar10(**over: Any) -> dict[str, Any]:
  """StyleGAN2-ADA: 19,947,539 and 20,720,641 parameters."""
  return (
    dict(
      family="stylegan2",
      latent=512,
      style=512,
      mapping=2,
      channel_base=32768,
      channel_max=512,
      truncation=1.0,
      architecture="orig",
      group=32,
      label_mapping=8,
    )
    | over
  )


def stylegan_ada_small(**over: Any) -> dict[str, Any]:
  """The same at 32 channels and fewer."""
  small = dict(
    latent=64, style=64, channel_base=512, channel_max=32, group=16,
    label_mapping=2,
  )  # fmt: skip
  return stylegan_ada_cifar10(**small) | over


def diffbiggan_cifar10(**over: Any) -> dict[str, Any]:
  """DiffAugment's BigGAN: 4,304,387 and 4,207,361 with 10 classes."""
  return (
    dict(
      family="biggan",
      latent=128,
      width=256,
      shared=None,
      hierarchical=False,
      discriminator_width=256,
    )
    | over
  )


def diffbiggan_small(**over: Any) -> dict[str, Any]:
  """The same at 32 channels."""
  return diffbiggan_cifar10(latent=32, width=32, discriminator_width=32) | over


def e2gan_cifar10(**over: Any) -> dict[str, Any]:
  """E2GAN's searched generator: 4,867,331 and 1,053,824 parameters."""
  return (
    dict(
      family="e2gan",
      latent=128,
      width=256,
      cells=e2gan.PUBLISHED,
      discriminator_width=128,
    )
    | over
  )


def e2gan_small(**over: Any) -> dict[str, Any]:
  """The same cells at 32 channels."""
  return e2gan_cifar10(latent=32, width=32, discriminator_width=32) | over


def nda_cifar10(**over: Any) -> dict[str, Any]:
  """NDA's BigGAN, without classes: 4,276,739 and 4,204,801 parameters.

  The authors give it one class, whose product adds 256 parameters to the
  discriminator and says nothing that the other product does not.
  """
  return diffbiggan_cifar10() | over


def nda_small(**over: Any) -> dict[str, Any]:
  """The same at 32 channels."""
  return diffbiggan_small() | over


def wgan_alp_cifar10(**over: Any) -> dict[str, Any]:
  """WGAN-ALP's ResNet: 1,204,483 and 1,053,825 parameters."""
  return (
    dict(
      family="resnet",
      latent=128,
      width=128,
      shared=None,
      hierarchical=False,
      discriminator_width=128,
    )
    | over
  )


def wgan_alp_small(**over: Any) -> dict[str, Any]:
  """The same at 32 channels."""
  return wgan_alp_cifar10(latent=32, width=32, discriminator_width=32) | over

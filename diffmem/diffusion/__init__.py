# SPDX-License-Identifier: Apache-2.0
"""The diffusion process: schedules, noise, losses, reverse steps, guidance.

It knows no network: whatever maps (x_t, t, cond) to a prediction fits.

  schedules  beta_t, and which t a sampler visits
  process    x0, eps and v into one another; the posterior of a reverse step
  losses     per example [b], for training and for membership alike
  steppers   ddpm and ddim: one pure function per reverse step
  guidance   classifier-free
  augmentation  the noisy small image that super-resolution starts from
  likelihood the density of an image, and a bound on it
"""

from diffmem.diffusion import augmentation as augmentation
from diffmem.diffusion import guidance as guidance
from diffmem.diffusion import likelihood as likelihood
from diffmem.diffusion import losses as losses
from diffmem.diffusion import process as process
from diffmem.diffusion import schedules as schedules
from diffmem.diffusion import steppers as steppers

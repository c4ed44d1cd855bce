# SPDX-License-Identifier: Apache-2.0
"""One interface to any diffusion model, and three models known exactly."""

from diffmem.denoiser.captioned import captioned_set as captioned_set
from diffmem.denoiser.oracles import finite_set as finite_set
from diffmem.denoiser.oracles import gaussian as gaussian
from diffmem.denoiser.protocol import Denoiser as Denoiser

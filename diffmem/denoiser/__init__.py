# SPDX-License-Identifier: Apache-2.0
"""One interface to any diffusion model, and two models known exactly."""

from diffmem.denoiser.oracles import finite_set as finite_set
from diffmem.denoiser.oracles import gaussian as gaussian
from diffmem.denoiser.protocol import Denoiser as Denoiser

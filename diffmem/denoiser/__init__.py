# SPDX-License-Identifier: Apache-2.0
"""One interface to any diffusion model, and two models known exactly."""

from diffmem.denoiser.protocol import Denoiser as Denoiser

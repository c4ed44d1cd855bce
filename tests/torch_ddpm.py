# SPDX-License-Identifier: Apache-2.0
"""A DDPM in plain PyTorch: its training and its sampler, as an oracle.

Training draws t and noise for a batch and takes the mean squared error of the
predicted noise (Ho et al. 2020, algorithm 1); Adam behind a clip of the norm,
a linear warm-up and half a cosine, and an average of the weights. Sampling is
DDIM with eta = 0 (Song et al. 2021) with x0 limited to [-1, 1].

Images are float [n c h w] in [-1, 1]; networks map (x, t [n]) to noise.
"""

import copy
import math

import torch
from torch import nn

from diffmem import models
from diffmem.denoiser import Denoiser
from diffmem.diffusion import schedules
from diffmem.models import convert
from tests import torch_networks
from tests.torch_attacks import ALPHA_BAR

NOISE = (1 - ALPHA_BAR).sqrt().float()
SIGNAL = ALPHA_BAR.sqrt().float()


def initialised(network, zero, seed):
  """Xavier-uniform weights, no biases; names that end in `zero` are nothing."""
  torch.manual_seed(seed)
  for name, part in network.named_modules():
    if isinstance(part, nn.Conv2d | nn.Linear):
      nn.init.xavier_uniform_(part.weight)
      nn.init.zeros_(part.bias)
      if name.endswith(zero):
        nn.init.zeros_(part.weight)
  return network


def rate(step, *, warmup, steps):
  """Share of the learning rate at a step."""
  if step < warmup:
    return (step + 1) / warmup
  done = (step - warmup) / max(steps - warmup, 1)
  return 0.5 * (1 + math.cos(math.pi * done))


def train(network, images, *, steps, batch, lr, warmup, clip, ema, seed):
  """Trains the network in place; returns the average of its weights.

  images: as often as they stand in training; each epoch has an order of its
  own, and a batch may span two.
  """
  generator = torch.Generator().manual_seed(seed)
  average = copy.deepcopy(network).eval().requires_grad_(False)
  weights = list(network.parameters())
  adam = torch.optim.Adam(weights, lr=lr)
  slower = torch.optim.lr_scheduler.LambdaLR(
    adam, lambda step: rate(step, warmup=warmup, steps=steps)
  )
  order = torch.empty(0, dtype=torch.long)
  network.train()
  for step in range(steps):
    while len(order) < batch:
      fresh = torch.randperm(len(images), generator=generator)
      order = torch.cat([order, fresh])
    rows, order = order[:batch], order[batch:]
    x = images[rows]
    t = torch.randint(0, len(ALPHA_BAR), (batch,), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    noisy = SIGNAL[t, None, None, None] * x + NOISE[t, None, None, None] * noise
    loss = ((network(noisy, t) - noise) ** 2).mean()
    adam.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(weights, clip)
    adam.step()
    slower.step()
    decay = min(ema, (1 + step) / (10 + step))
    with torch.no_grad():
      torch._foreach_lerp_(list(average.parameters()), weights, 1 - decay)
  return average


@torch.inference_mode()
def ddim(network, x, steps):
  """Images from noise x in `steps` evenly spaced times, 999 and 0 included."""
  times = [round(i * 999 / (steps - 1)) for i in range(steps)][::-1]
  for t, u in zip(times, [*times[1:], None], strict=True):
    noise = network(x, torch.full((len(x),), t))
    clean = ((x - NOISE[t] * noise) / SIGNAL[t]).clamp(-1, 1)
    if u is None:
      return clean
    noise = (x - SIGNAL[t] * clean) / NOISE[t]
    x = SIGNAL[u] * clean + NOISE[u] * noise
  raise AssertionError


def to_floats(images):
  """uint8 [n h w c] -> float [n c h w] in [-1, 1]."""
  return torch.from_numpy(images.transpose(0, 3, 1, 2) / 127.5 - 1).float()


def to_uint8(images):
  """The way back, rounded."""
  pixels = ((images + 1) * 127.5).round().clamp(0, 255)
  return pixels.to(torch.uint8).numpy().transpose(0, 2, 3, 1).copy()


def trained_and_converted(images, steps=40):
  """(network trained a little on uint8 images, a denoiser of its weights)."""
  shape = images.shape[1:]
  made = torch_networks.UNet(
    32, (1, 1), blocks=1, attention=(), channels=shape[2]
  )
  options = dict(batch=24, lr=1e-3, warmup=5, clip=1.0, ema=0.9)
  network = train(made, to_floats(images), steps=steps, **options, seed=0)
  state = {name: value.numpy() for name, value in network.state_dict().items()}
  found = convert.pytorch_ddpm(state, height=shape[0])
  model = models.create(shape=shape, **found.knobs)
  return network, Denoiser(
    schedule=schedules.linear(steps=found.steps),
    shape=shape,
    params=found.params,
    apply=model.apply,
  )

# SPDX-License-Identifier: Apache-2.0
"""The U-Net of pytorch-ddpm, written from its description, as an oracle.

Names of weights are that repository's, so that a state dict of this network
is one of theirs.
"""

import math

import torch
from torch import nn
from torch.nn import functional

torch.set_num_threads(1)  # threads that share cores with others are slow


def norm(channels):
  return nn.GroupNorm(32, channels)


class Attention(nn.Module):
  def __init__(self, channels):
    super().__init__()
    self.group_norm = norm(channels)
    for name in ("proj_q", "proj_k", "proj_v", "proj"):
      setattr(self, name, nn.Conv2d(channels, channels, 1))

  def forward(self, x):
    y = self.group_norm(x)
    q, k, v = (
      layer(y).flatten(2).mT
      for layer in (self.proj_q, self.proj_k, self.proj_v)
    )
    y = functional.scaled_dot_product_attention(q, k, v)
    return x + self.proj(y.mT.reshape(x.shape))


class Residual(nn.Module):
  def __init__(self, inputs, outputs, embedding, attend):
    super().__init__()
    self.block1 = nn.Sequential(
      norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
    )
    self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
    self.block2 = nn.Sequential(
      norm(outputs),
      nn.SiLU(),
      nn.Dropout(0.1),
      nn.Conv2d(outputs, outputs, 3, padding=1),
    )
    self.shortcut = (
      nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
    )
    self.attn = Attention(outputs) if attend else nn.Identity()

  def forward(self, x, e):
    y = self.block2(self.block1(x) + self.temb_proj(e)[:, :, None, None])
    return self.attn(self.shortcut(x) + y)


class Resize(nn.Module):
  def __init__(self, channels, stride):
    super().__init__()
    self.main = nn.Conv2d(channels, channels, 3, stride, 1)

  def forward(self, x, e):
    del e
    if self.main.stride == (1, 1):
      x = functional.interpolate(x, scale_factor=2, mode="nearest")
    return self.main(x)


class Embedding(nn.Module):
  def __init__(self, steps, width):
    super().__init__()
    waves = torch.exp(-math.log(1e4) * torch.arange(0, width, 2) / width)
    angles = torch.arange(steps)[:, None] * waves
    table = torch.stack([angles.sin(), angles.cos()], -1).reshape(steps, width)
    self.timembedding = nn.Sequential(
      nn.Embedding.from_pretrained(table),
      nn.Linear(width, 4 * width),
      nn.SiLU(),
      nn.Linear(4 * width, 4 * width),
    )

  def forward(self, t):
    return self.timembedding(t)


class UNet(nn.Module):
  """x [b 3 h w], t [b] -> eps; `attention` lists indices of levels."""

  def __init__(
    self, width, multipliers, blocks, attention, steps=1000, channels=3
  ):
    super().__init__()
    self.time_embedding = Embedding(steps, width)
    self.head = nn.Conv2d(channels, width, 3, padding=1)
    down, up, c, skips = [], [], width, [width]

    def residual(inputs, level):
      outputs = width * multipliers[level]
      return Residual(inputs, outputs, 4 * width, level in attention)

    for level, m in enumerate(multipliers):
      for _ in range(blocks):
        down.append(residual(c, level))
        c = width * m
        skips.append(c)
      if level + 1 < len(multipliers):
        down.append(Resize(c, 2))
        skips.append(c)
    middle = [Residual(c, c, 4 * width, attend) for attend in (True, False)]
    for level in reversed(range(len(multipliers))):
      for _ in range(blocks + 1):
        up.append(residual(c + skips.pop(), level))
        c = width * multipliers[level]
      if level:
        up.append(Resize(c, 1))
    self.downblocks, self.upblocks = nn.ModuleList(down), nn.ModuleList(up)
    self.middleblocks = nn.ModuleList(middle)
    self.tail = nn.Sequential(
      norm(c), nn.SiLU(), nn.Conv2d(c, channels, 3, padding=1)
    )

  def forward(self, x, t):
    e = self.time_embedding(t)
    x = self.head(x)
    skips = [x]
    for layer in self.downblocks:
      x = layer(x, e)
      skips.append(x)
    for layer in self.middleblocks:
      x = layer(x, e)
    for layer in self.upblocks:
      if isinstance(layer, Residual):
        x = torch.cat([x, skips.pop()], 1)
      x = layer(x, e)
    return self.tail(x)


def randomised(network, seed=0):
  """Every weight is drawn, norms too, so that each of them counts."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, value in network.named_parameters():
      if name == "time_embedding.timembedding.0.weight":
        continue
      fan = max(value[0].numel(), 1) if value.ndim > 1 else 1
      draw = torch.randn(value.shape, generator=generator)
      if value.ndim > 1:
        value.copy_(draw / math.sqrt(fan))
      else:
        value.copy_(0.3 * draw + (1.0 if "norm" in name else 0.0))
  return network.eval()

# SPDX-License-Identifier: Apache-2.0
"""Weights of a network trained in PyTorch, as parameters of `unet`.

The layout is that of github.com/w86763777/pytorch-ddpm, which SecMI (Duan et
al. 2023, arXiv:2302.01316), PIA, SimA and ReDiffuse train and attack:

  time_embedding.timembedding  0 a table [steps width], 1 and 3 dense
  head                         the first convolution
  downblocks.N                 residual blocks, and `main` where it halves
  middleblocks.0, .1           residual blocks, the first with attention
  upblocks.N                   as downblocks; `main` where it doubles
  tail                         0 norm, 2 the last convolution
  residual block               block1 (0 norm, 2 convolution), temb_proj.1,
                               block2 (0 norm, 3 convolution), shortcut, attn
  attn                         group_norm, proj_q, proj_k, proj_v, proj

Kernels are [out in h w] there and [h w in out] here; its embedding of time
interleaves sines and cosines, which here is an order of rows of the first
dense layer. What differs beyond that is the knob `conventions="torch"`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffmem.arrays import AnyArray, Float

State = Mapping[str, Float[np.ndarray, "..."]]
Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Converted:
  """A network from outside.

  Attributes:
    knobs: for `models.create`, without the dropout, which weights do not say.
    steps: length of the schedule that the network was trained for.
    channels: of the images.
    params: the parameters.
  """

  knobs: dict[str, Any]
  steps: int
  channels: int
  params: Tree


def pytorch_ddpm(state: State, *, height: int) -> Converted:
  """Converts a state dict as arrays; reads every entry of it.

  Args:
    state: name -> array. "module." before all names is left out.
    height: of the images, which the weights do not say.

  Raises:
    ValueError: the state is of another layout; names what is missing, over or
      of another shape.
  """
  reader = _Reader(state)
  width, channels = reader.get("head.weight", 4).shape[:2]
  levels, attends = _levels(reader)
  blocks = len(levels[0])
  multipliers = tuple(
    len(reader.get(f"{names[0]}.block1.2.bias", 1)) // width for names in levels
  )
  embed, steps = _embedding(reader, width)
  params = {
    "embed": embed,
    "stem": reader.conv("head"),
    "down": _down(reader, levels),
    "middle_1": reader.block("middleblocks.0"),
    "middle": reader.attention("middleblocks.0.attn"),
    "middle_2": reader.block("middleblocks.1"),
    "up": _up(reader, len(levels), blocks),
    "norm": reader.norm("tail.0"),
    "out": reader.conv("tail.2"),
  }
  reader.finish()
  knobs = dict(
    name="unet",
    num_classes=None,
    width=width,
    multipliers=multipliers,
    blocks=blocks,
    attention=tuple(height >> i for i, has in enumerate(attends) if has),
    heads=1,
    middle="attention",
    scale_shift=False,
    groups=32,
    time_scale=1.0,
    conventions="torch",
  )
  return Converted(knobs, steps, channels, params)


class _Reader:
  """Takes arrays out of a state dict by name."""

  def __init__(self, state: State):
    self.state = {name.removeprefix("module."): state[name] for name in state}
    self.used: set[str] = set()

  def has(self, name: str) -> bool:
    return name in self.state

  def get(self, name: str, axes: int) -> Float[np.ndarray, "..."]:
    if name not in self.state:
      first = ", ".join(sorted(self.state)[:3])
      raise ValueError(
        f"the weights have no {name}: they are not in the layout of "
        f"pytorch-ddpm (they have {len(self.state)} arrays: {first}, ...)"
      )
    self.used.add(name)
    value = np.asarray(self.state[name], np.float32)
    if value.ndim != axes:
      raise ValueError(
        f"weights {name} have shape {value.shape}, expected {axes} axes"
      )
    return value

  def finish(self) -> None:
    left = sorted(set(self.state) - self.used)
    if left:
      raise ValueError(
        f"{len(left)} arrays of the weights have no place in this network: "
        f"{', '.join(left[:3])}"
      )

  def conv(self, name: str) -> Tree:
    kernel = self.get(f"{name}.weight", 4).transpose(2, 3, 1, 0)
    return {"kernel": kernel, "bias": self.get(f"{name}.bias", 1)}

  def dense(self, name: str) -> Tree:
    kernel = self.get(f"{name}.weight", 2).T
    return {"kernel": kernel, "bias": self.get(f"{name}.bias", 1)}

  def norm(self, name: str) -> Tree:
    scale = self.get(f"{name}.weight", 1)
    return {"scale": scale, "bias": self.get(f"{name}.bias", 1)}

  def block(self, name: str) -> Tree:
    found = {
      "norm1": self.norm(f"{name}.block1.0"),
      "conv1": self.conv(f"{name}.block1.2"),
      "embed": self.dense(f"{name}.temb_proj.1"),
      "norm2": self.norm(f"{name}.block2.0"),
      "conv2": self.conv(f"{name}.block2.3"),
    }
    if self.has(f"{name}.shortcut.weight"):
      found["skip"] = self.conv(f"{name}.shortcut")
    return found

  def attention(self, name: str) -> Tree:
    """Convolutions of size 1, which are dense layers here."""
    parts = [self.conv(f"{name}.proj{part}") for part in ("_q", "_k", "_v", "")]
    kernels = [part["kernel"][0, 0] for part in parts]
    biases = [part["bias"] for part in parts]
    return {
      "norm": self.norm(f"{name}.group_norm"),
      "qkv": {
        "kernel": np.concatenate(kernels[:3], axis=1),
        "bias": np.concatenate(biases[:3]),
      },
      "out": {"kernel": kernels[3], "bias": biases[3]},
    }

  def stage(self, name: str, place: str) -> Tree:
    """A residual block, and its attention where it has one."""
    found = {f"block_{place}": self.block(name)}
    if self.has(f"{name}.attn.proj.weight"):
      found[f"attention_{place}"] = self.attention(f"{name}.attn")
    return found


def _levels(reader: _Reader) -> tuple[list[list[str]], list[bool]]:
  """(names of the residual blocks of each level, which have attention)."""
  levels: list[list[str]] = [[]]
  i = 0
  while reader.has(name := f"downblocks.{i}.block1.0.weight") or reader.has(
    f"downblocks.{i}.main.weight"
  ):
    if reader.has(name):
      levels[-1].append(f"downblocks.{i}")
    else:
      levels.append([])
    i += 1
  sizes = {len(level) for level in levels}
  attends = [
    {reader.has(f"{name}.attn.proj.weight") for name in level}
    for level in levels
  ]
  if len(sizes) != 1 or 0 in sizes or any(len(each) != 1 for each in attends):
    raise ValueError(
      f"the weights have {[len(level) for level in levels]} residual blocks a "
      "level, or attention on some blocks of a level: not a network of "
      "pytorch-ddpm"
    )
  return levels, [each.pop() for each in attends]


def _down(reader: _Reader, levels: list[list[str]]) -> Tree:
  down: Tree = {}
  blocks = len(levels[0])
  for level, names in enumerate(levels):
    for i, name in enumerate(names):
      down |= reader.stage(name, f"{level}_{i}")
    if level + 1 < len(levels):
      number = (level + 1) * (blocks + 1) - 1
      down[f"halve_{level}"] = reader.conv(f"downblocks.{number}.main")
  return down


def _up(reader: _Reader, levels: int, blocks: int) -> Tree:
  up: Tree = {}
  number = 0
  for level in reversed(range(levels)):
    for i in range(blocks + 1):
      up |= reader.stage(f"upblocks.{number}", f"{level}_{i}")
      number += 1
    if level:
      up[f"double_{level}"] = reader.conv(f"upblocks.{number}.main")
      number += 1
  return up


def _embedding(reader: _Reader, width: int) -> tuple[Tree, int]:
  """(dense layers, steps); the table must be the one that `unet` computes."""
  name = "time_embedding.timembedding"
  table = reader.get(f"{name}.0.weight", 2)
  half = width // 2
  waves = 10000.0 ** (-np.arange(half) / half)
  angles = np.arange(len(table))[:, None] * waves
  expected = np.stack([np.sin(angles), np.cos(angles)], -1)
  if table.shape != (len(table), width) or not np.allclose(
    table, expected.reshape(len(table), width), atol=1e-3
  ):
    raise ValueError(
      f"weights {name}.0 of shape {table.shape} are not the sines and cosines "
      "of pytorch-ddpm"
    )
  first = reader.dense(f"{name}.1")
  first["kernel"] = deinterleaved(first["kernel"])
  return {"first": first, "second": reader.dense(f"{name}.3")}, len(table)


def deinterleaved(rows: Float[AnyArray, "i o"]) -> Float[AnyArray, "i o"]:
  """Rows of [sin, cos, sin, cos, ...] as of [sin, ..., cos, ...]."""
  return np.concatenate([rows[0::2], rows[1::2]])

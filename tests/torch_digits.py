# SPDX-License-Identifier: Apache-2.0
"""The network of configs/digits.py in PyTorch, as an oracle.

The layers are those that benchmarks/train_step.py is timed against, which
there begin with weights of their own; `converted` gives them ours.
"""

import math

import numpy as np
import torch
from torch import nn

from benchmarks import train_step

NETWORK = dict(width=16, multipliers=(1, 2), blocks=1, attention=(),
               middle="dense", groups=8)  # fmt: skip
# Parts that start as nothing.
ZERO = ("conv2", "out", "middle.1.second")


def network():
  """With PyTorch's first weights."""
  return train_step.torch_unet((8, 8, 1), NETWORK)


def layers(params):
  """Weights of some layers by name in PyTorch."""
  return {
    f"{name}.{'bias' if key == 'bias' else 'weight'}": kernel(value)
    for name, part in params.items()
    for key, value in part.items()
  }


def kernel(value):
  """A kernel in PyTorch's order of axes; vectors stay."""
  return value.transpose({1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[value.ndim])


def dense_middle(params, channels):
  """The dense middle, whose pixels PyTorch has channels first."""

  def order(value, axis):
    shape = list(value.shape)
    side = math.isqrt(shape[axis] // channels)
    parts = [*shape[:axis], side, side, channels, *shape[axis + 1 :]]
    return np.moveaxis(value.reshape(parts), axis + 2, axis).reshape(shape)

  first, second = params["first"], params["second"]
  first = {"kernel": order(first["kernel"], 0), "bias": first["bias"]}
  second = {
    "kernel": order(second["kernel"], 1),
    "bias": order(second["bias"], 0),
  }
  return layers({"norm": params["norm"], "first": first, "second": second})


def converted(params):
  """The network of digits.py in PyTorch, with these weights."""
  made = network()
  halve = made.down[1][0].conv  # pads the last edge alone, as in Ho et al.
  halve.padding = (0, 0)
  made.down[1][0].conv = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), halve)
  down, up, top = params["down"], params["up"], ("stem", "norm", "out")
  state = layers({**params["embed"], **{name: params[name] for name in top}})
  for name, part in {
    "down.0.0": layers(down["block_0_0"]),
    "down.1.0": layers({"conv.1": down["halve_0"]}),
    "down.2.0": layers(down["block_1_0"]),
    "middle.0": layers(params["middle_1"]),
    "middle.1": dense_middle(params["middle"], 2 * NETWORK["width"]),
    "middle.2": layers(params["middle_2"]),
    "up.0.0": layers(up["block_1_0"]),
    "up.1.0": layers(up["block_1_1"]),
    "up.1.1": layers({"conv": up["double_1"]}),
    "up.2.0": layers(up["block_0_0"]),
    "up.3.0": layers(up["block_0_1"]),
  }.items():
    state |= {f"{name}.{key}": value for key, value in part.items()}
  made.load_state_dict(
    {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
  )
  return made.eval()

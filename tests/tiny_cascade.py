# SPDX-License-Identifier: Apache-2.0
"""The config of a tiny cascade with captions: 8x8 -> 16x16, two steps each."""

import copy
from typing import Any

MODELS: dict[str, Any] = {
  "name": "imagen",
  "num_classes": None,
  "dtype": "float32",
  "text": (19, 16),
  "low": None,
  "width": 8,
  "multipliers": (1,),
  "blocks": (1,),
  "halve_first": False,
  "attention": (),
  "cross": (8,),
  "context": 8,
  "head_channels": 8,
  "skips": "level",
  "middle": False,
  "dropout": 0.0,
  "groups": 4,
  "time_scale": 1.0,
}
CONFIG: dict[str, Any] = {
  "seed": 0,
  "data": {
    "source": "scenes:6x4",
    "data_dir": None,
    "crop": "none",
    "resize": None,
    "filter": "lanczos",
    "split": {
      "name": "random",
      "members": 12,
      "held_out": 6,
      "calibration": 6,
      "planted": ((3, 1),),
      "shadows": 0,
      "shadow": None,
      "path": None,
    },
    "captions": {
      "encoder": "hashed",
      "path": None,
      "length": 19,
      "features": 16,
      "cut": False,
    },
    "upsampler": None,
  },
  "models": MODELS,
  "diffusion": {
    "schedule": {"name": "cosine", "steps": 40},
    "prediction": "v",
    "loss": "mse",
  },
  "train": {
    "batch": 8,
    "steps": 2,
    "lr": 0.01,
    "warmup": 1,
    "decay": "cosine",
    "clip": 1.0,
    "ema": 0.9,
    "flip": False,
    "label_dropout": 0.25,
    "log_every": 1,
    "checkpoint_every": 2,
    "preview_every": 2,
    "preview": 2,
    "tensorboard": False,
  },
  "upsamplers": (
    {
      "low": 8,
      "side": 16,
      "augmentation": (0, 20),
      "models": {"halve_first": True},
      "diffusion": {"prediction": "eps"},
      "train": {"steps": 2},
    },
  ),
}
CHAIN: dict[str, Any] = {
  "stepper": "ddim",
  "steps": 3,
  "eta": 0.0,
  "guidance": 1.5,
  "clip": 0.95,
}
SAMPLE: dict[str, Any] = {
  **CHAIN,
  "n": None,
  "batch": 4,
  "backend": "pmap",
  "prompts": None,
  "per_prompt": 3,
  "upsamplers": ({**CHAIN, "path": None, "level": 5, "clip": True},),
}


def config(**changes: Any) -> dict[str, Any]:
  """The sections that train it; section__key=value changes one."""
  made = copy.deepcopy(CONFIG)
  for key, value in changes.items():
    section, _, name = key.partition("__")
    if name:
      made[section][name] = value
    else:
      made[section] = value
  return made

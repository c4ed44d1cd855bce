# SPDX-License-Identifier: Apache-2.0
"""CLIP and DINOv2 as embeddings, through transformers (extra: torch).

  clip    the image part of CLIP (Radford et al., arXiv 2103.00020), after its
          projection where the folder has one
  dinov2  the class token of DINOv2 (Oquab et al., arXiv 2304.07193)

Both are read from a folder that save_pretrained wrote (config.json and
*.safetensors); nothing is downloaded, no pickle is read and no code of the
folder runs. Both are compared by cosine.
"""

import json
import os
from typing import Any

import numpy as np

from diffmem import workdir
from diffmem.arrays import Float, UInt8
from diffmem.features import weights
from diffmem.features.protocol import Features
from diffmem.features.resizing import CLIP, IMAGENET, Preparation

DINO_SIDE = 224


def clip(path: str | os.PathLike, *, device: str | None = None) -> Features:
  """CLIP's image embedding."""
  config = _config(path, ("clip", "clip_vision_model"))
  vision = config.get("vision_config", config)
  side = vision.get("image_size", 224)
  prepare = Preparation(side, "bicubic", *CLIP, crop=side)
  projected = "CLIPVisionModelWithProjection" in config.get(
    "architectures", []
  ) or (config["model_type"] == "clip")
  kind = "CLIPVisionModelWithProjection" if projected else "CLIPVisionModel"
  output = "image_embeds" if projected else "pooler_output"
  return _features("clip", path, kind, output, prepare, device)


def dinov2(path: str | os.PathLike, *, device: str | None = None) -> Features:
  """DINOv2's class token."""
  config = _config(path, ("dinov2",))
  patch = config.get("patch_size", 14)
  side = min(config.get("image_size", 518), DINO_SIDE) // patch * patch
  edge = round(side * 256 / 224)
  prepare = Preparation(edge, "bicubic", *IMAGENET, crop=side)
  return _features(
    "dinov2", path, "Dinov2Model", "pooler_output", prepare, device
  )


def _config(path, kinds: tuple[str, ...]) -> dict[str, Any]:
  """config.json of a folder; FileNotFoundError, ValueError: not such a one."""
  file = workdir.path(path) / "config.json"
  if not file.exists():
    raise FileNotFoundError(
      f"{path} is no model folder (no config.json in it): give what "
      "transformers' save_pretrained wrote"
    )
  try:
    config = json.loads(file.read_text())
  except ValueError as e:
    raise ValueError(f"{file} is not valid JSON ({e})") from e
  if config.get("model_type") not in kinds:
    raise ValueError(
      f"{path} holds a model of type {config.get('model_type')!r}, expected "
      f"{' or '.join(kinds)}"
    )
  return config


def _features(
  name: str,
  path,
  kind: str,
  output: str,
  prepare: Preparation,
  device: str | None,
) -> Features:
  digest = weights.digest(path)
  try:
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise ImportError(
      f"features {name!r} need torch and transformers ({e}): "
      "pip install 'diffmem[torch]'"
    ) from e
  place = device or ("cuda" if torch.cuda.is_available() else "cpu")
  model = getattr(transformers, kind).from_pretrained(
    os.fspath(path), local_files_only=True, use_safetensors=True
  )
  model = model.to(place, torch.float32).eval()

  def embed(images: UInt8[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b d"]:
    x = torch.from_numpy(prepare(images)).permute(0, 3, 1, 2).to(place)
    with torch.inference_mode():
      return getattr(model(pixel_values=x), output).cpu().numpy()

  info = {
    "weights": digest,
    "model": kind,
    "edge": prepare.edge,
    "crop": prepare.crop,
  }
  return Features(name, embed, "cosine", info)

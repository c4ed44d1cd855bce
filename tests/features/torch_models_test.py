# SPDX-License-Identifier: Apache-2.0
"""CLIP and DINOv2 by path: tiny networks with random weights, built here."""

import json

import numpy as np
import pytest

from diffmem import features

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Folders as save_pretrained writes them."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.set_num_threads(1)
  torch.manual_seed(0)
  sizes = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
  }
  clip = transformers.CLIPVisionConfig(
    **sizes,
    intermediate_size=32,
    projection_dim=12,
    image_size=28,
    patch_size=14,
  )
  dino = transformers.Dinov2Config(**sizes, image_size=28, patch_size=14)
  root = tmp_path_factory.mktemp("models")
  models = {
    "clip": transformers.CLIPVisionModelWithProjection(clip),
    "plain": transformers.CLIPVisionModel(clip),
    "dinov2": transformers.Dinov2Model(dino),
  }
  for name, model in models.items():
    model.eval().save_pretrained(root / name, safe_serialization=True)
  return root, models


@pytest.mark.torch
@pytest.mark.parametrize(
  ("name", "folder", "output", "size"),
  [
    ("clip", "clip", "image_embeds", 12),
    ("clip", "plain", "pooler_output", 16),
    ("dinov2", "dinov2", "pooler_output", 16),
  ],
)
def test_equals_the_model_itself(folders, name, folder, output, size):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  root, models = folders
  made = features.create(name, path=root / folder)
  vectors = made.embed(IMAGES)
  assert vectors.shape == (3, size)
  edge = 28 if name == "clip" else 32
  processor = (
    transformers.CLIPImageProcessorPil
    if hasattr(transformers, "CLIPImageProcessorPil")
    else transformers.CLIPImageProcessor
  )
  options = {"size": {"shortest_edge": edge}, "crop_size": 28, "resample": 3}
  if name == "dinov2":
    options |= {
      "image_mean": [0.485, 0.456, 0.406],
      "image_std": [0.229, 0.224, 0.225],
    }
  pixels = processor(**options)(list(IMAGES), return_tensors="pt")
  with torch.inference_mode():
    expected = getattr(models[folder](**pixels), output).numpy()
  np.testing.assert_allclose(vectors, expected, atol=2e-5)
  alone = made.embed(IMAGES[1:2])
  np.testing.assert_allclose(alone, vectors[1:2], atol=1e-5)


@pytest.mark.torch
def test_pickled_weights_are_not_read(folders, tmp_path):
  torch = pytest.importorskip("torch")
  root, models = folders
  config = (root / "clip" / "config.json").read_text()
  (tmp_path / "config.json").write_text(config)
  torch.save(models["clip"].state_dict(), tmp_path / "pytorch_model.bin")
  with pytest.raises(FileNotFoundError, match="holds no weights"):
    features.create("clip", path=tmp_path)


def test_without_the_extra(tmp_path, monkeypatch):
  (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
  (tmp_path / "model.safetensors").write_bytes(b"x")
  monkeypatch.setitem(__import__("sys").modules, "torch", None)
  with pytest.raises(ImportError, match=r"diffmem\[torch\]"):
    features.create("dinov2", path=tmp_path)


@pytest.mark.parametrize(
  ("config", "error", "message"),
  [
    (None, FileNotFoundError, "no config.json in it"),
    ("{", ValueError, "not valid JSON"),
    ('{"model_type": "bert"}', ValueError, "type 'bert', expected clip or"),
  ],
)
def test_other_folders_are_refused(tmp_path, config, error, message):
  if config is not None:
    (tmp_path / "config.json").write_text(config)
  with pytest.raises(error, match=message):
    features.create("clip", path=tmp_path)

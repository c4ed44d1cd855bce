# SPDX-License-Identifier: Apache-2.0
"""The network of SSCD equals PyTorch's layers on the same weights."""

import numpy as np
import pytest
from PIL import Image

from diffmem import features
from diffmem.features import resizing, sscd

WIDTHS = (8, 12, 16, 20)  # of the four stages' inner convolutions
DEPTHS = (2, 1, 1, 1)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)


def tiny_state():
  """Random weights of a small network, in torchvision's names."""
  state = {}

  def conv(name, inputs, outputs, side):
    scale = (2 / (inputs * side * side)) ** 0.5
    state[f"{name}.weight"] = scale * RNG.normal(
      size=(outputs, inputs, side, side)
    )

  def norm(name, channels):
    state[f"{name}.weight"] = RNG.uniform(0.5, 1.5, channels)
    state[f"{name}.bias"] = RNG.normal(size=channels) * 0.1
    state[f"{name}.running_mean"] = RNG.normal(size=channels) * 0.1
    state[f"{name}.running_var"] = RNG.uniform(0.5, 1.5, channels)

  conv("conv1", 3, 8, 7)
  norm("bn1", 8)
  inputs = 8
  for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True), 1):
    for block in range(depth):
      name = f"layer{stage}.{block}"
      sizes = ((inputs, width, 1), (width, width, 3), (width, 4 * width, 1))
      for i, (a, b, side) in enumerate(sizes, 1):
        conv(f"{name}.conv{i}", a, b, side)
        norm(f"{name}.bn{i}", b)
      if block == 0:
        conv(f"{name}.downsample.0", inputs, 4 * width, 1)
        norm(f"{name}.downsample.1", 4 * width)
      inputs = 4 * width
  state["fc.weight"] = RNG.normal(size=(10, inputs)) / inputs**0.5
  state["fc.bias"] = RNG.normal(size=10) * 0.1
  return {
    f"backbone.{name}": value.astype(np.float32)
    for name, value in state.items()
  }


@pytest.fixture(scope="module")
def state():
  return tiny_state()


@pytest.fixture(scope="module")
def path(state, tmp_path_factory):
  file = tmp_path_factory.mktemp("sscd") / "weights.npz"
  np.savez(file, **state)
  return file


def test_vectors_of_length_one_and_what_made_them(path):
  made = features.create("sscd", path=path, preparation="dcr224")
  vectors = made.embed(IMAGES)
  assert vectors.shape == (3, 10)
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
  assert made.info["preparation"] == "dcr224"
  assert len(made.info["weights"]) == 64


@pytest.mark.torch
@pytest.mark.parametrize("preparation", sscd.PREPARATIONS)
def test_equals_torch(path, state, preparation):
  torch = pytest.importorskip("torch")
  functional = torch.nn.functional
  params = {
    name.removeprefix("backbone."): torch.from_numpy(value)
    for name, value in state.items()
  }

  def norm(x, name):
    parts = ("running_mean", "running_var", "weight", "bias")
    return functional.batch_norm(x, *(params[f"{name}.{p}"] for p in parts))

  def conv(x, name, stride=1):
    kernel = params[f"{name}.weight"]
    return functional.conv2d(
      x, kernel, stride=stride, padding=kernel.shape[2] // 2
    )

  images = sscd.PREPARATIONS[preparation](IMAGES)
  x = torch.from_numpy(images).permute(0, 3, 1, 2)
  x = torch.relu(norm(conv(x, "conv1", 2), "bn1"))
  x = functional.max_pool2d(x, 3, 2, 1)
  for stage, depth in enumerate(DEPTHS, 1):
    for block in range(depth):
      name = f"layer{stage}.{block}"
      stride = 2 if stage > 1 and block == 0 else 1
      y = torch.relu(norm(conv(x, f"{name}.conv1"), f"{name}.bn1"))
      y = torch.relu(norm(conv(y, f"{name}.conv2", stride), f"{name}.bn2"))
      y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
      if block == 0:
        x = norm(
          conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1"
        )
      x = torch.relu(x + y)
  x = functional.avg_pool2d(x.clamp(min=1e-6) ** 3, x.shape[2:]) ** (1 / 3)
  x = functional.linear(x.flatten(1), params["fc.weight"], params["fc.bias"])
  expected = functional.normalize(x).numpy()
  found = features.create("sscd", path=path, preparation=preparation)
  np.testing.assert_allclose(found.embed(IMAGES), expected, atol=2e-4)


def test_preparations():
  wide = RNG.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
  shapes = {
    name: prepare(wide).shape[1:3]
    for name, prepare in sscd.PREPARATIONS.items()
  }
  assert shapes == {
    "official288": (288, 432),
    "official320": (320, 320),
    "dcr224": (224, 224),
  }
  small = resizing.Preparation(10, "bilinear", *resizing.HALF, crop=8)
  expected = Image.fromarray(wide[0]).resize((15, 10), Image.BILINEAR)
  expected = np.asarray(expected, np.float32)[1:9, 4:12] / 127.5 - 1
  np.testing.assert_allclose(small(wide)[0], expected, atol=1e-6)
  grey = small(wide[..., :1])
  np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
  with pytest.raises(ValueError, match="2 channels, expected 1 or 3"):
    small(wide[..., :2])


def test_other_networks_are_refused(tmp_path):
  np.savez(tmp_path / "x.npz", **{"layer1.0.conv1.weight": np.ones(3)})
  with pytest.raises(ValueError, match=r"no ResNet of SSCD: it has no conv1"):
    features.create("sscd", path=tmp_path / "x.npz")
  with pytest.raises(FileNotFoundError, match="no such file"):
    features.create("sscd", path=tmp_path / "y.npz")

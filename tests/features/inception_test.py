# SPDX-License-Identifier: Apache-2.0
"""Inception by path, with random weights."""

from unittest import mock

import numpy as np
import pytest

from diffmem import features

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 1), np.uint8)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
  """The network itself, and a file of its weights."""
  torch = pytest.importorskip("torch")
  try:
    from torch_fidelity import feature_extractor_inceptionv3 as inception
  except (ImportError, RuntimeError) as e:
    pytest.skip(f"needs the extra [fid] ({e})")
  torch.set_num_threads(1)
  torch.manual_seed(0)
  kind = inception.FeatureExtractorInceptionV3
  with mock.patch.object(kind, "load_state_dict"), mock.patch("torch.load"):
    model = kind("random", ["2048"], feature_extractor_weights_path="none")
  path = tmp_path_factory.mktemp("inception") / "weights.pt"
  torch.save(model.state_dict(), path)
  return model, path


@pytest.mark.torch
def test_equals_the_network_itself(network):
  torch = pytest.importorskip("torch")
  model, path = network
  made = features.create("inception", path=path)
  vectors = made.embed(IMAGES)
  assert vectors.shape == (3, 2048)
  x = torch.from_numpy(np.repeat(IMAGES, 3, axis=3)).permute(0, 3, 1, 2)
  (expected,) = model(x)
  np.testing.assert_allclose(vectors, expected.numpy(), rtol=1e-4, atol=1e-5)
  assert expected.std(0).max() > 0
  alone = made.embed(IMAGES[1:2])
  np.testing.assert_allclose(alone[0], vectors[1], rtol=1e-3, atol=1e-5)


@pytest.mark.torch
def test_other_weights_are_refused(network, tmp_path):
  _, path = network
  np.savez(tmp_path / "w.npz", one=np.ones((2, 2), np.float32))
  with pytest.raises(ValueError, match="does not hold the Inception network"):
    features.create("inception", path=tmp_path / "w.npz")
  with pytest.raises(FileNotFoundError, match="no such file"):
    features.create("inception", path=path.with_name("absent.pt"))


def test_without_torch_fidelity_the_extra_is_named(tmp_path):
  np.savez(tmp_path / "w.npz", one=np.ones((2, 2), np.float32))
  absent = mock.patch.dict("sys.modules", {"torch_fidelity": None})
  with absent, pytest.raises(ImportError, match=r"diffmem\[fid\]"):
    features.create("inception", path=tmp_path / "w.npz")

# SPDX-License-Identifier: Apache-2.0
"""Converted weights give what PyTorch gives."""

import jax
import numpy as np
import pytest

from diffmem import models
from diffmem.models import convert, presets, weights

pytest.importorskip("torch", reason="the extra [torch] is not installed")
pytestmark = pytest.mark.torch

import torch  # noqa: E402

from tests import torch_networks  # noqa: E402


@pytest.fixture(scope="module")
def network():
  made = torch_networks.UNet(32, (1, 2, 1), blocks=2, attention=(1,))
  return torch_networks.randomised(made)


@pytest.fixture(scope="module")
def state(network):
  return {name: v.numpy() for name, v in network.state_dict().items()}


def test_outputs_are_those_of_torch(network, state):
  found = convert.pytorch_ddpm(state, height=16)
  assert found.steps == 1000
  assert found.knobs["multipliers"] == (1, 2, 1)
  assert found.knobs["blocks"] == 2
  assert found.knobs["attention"] == (8,)
  model = models.create(shape=(16, 16, found.channels), **found.knobs)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, found.params)
  x = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3))
  x, t = x.astype(np.float32), np.array([0, 1, 500, 999], np.int32)
  ours = jax.jit(model.apply)(found.params, x, t, None)
  with torch.no_grad():
    theirs = network(
      torch.from_numpy(x.transpose(0, 3, 1, 2).copy()),
      torch.from_numpy(t.astype(np.int64)),
    ).numpy()
  theirs = theirs.transpose(0, 2, 3, 1)
  assert 0.3 < theirs.std() < 10
  np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_published_size_is_the_preset():
  """By shapes alone: 35.7 million weights."""
  with torch.device("meta"):
    network = torch_networks.UNet(128, (1, 2, 2, 2), blocks=2, attention=(1,))
  count = sum(v.numel() for v in network.parameters() if v.requires_grad)
  knobs = presets.ddpm_cifar10_secmi()
  model = models.create(shape=(32, 32, 3), **knobs)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  assert models.count(shapes) == count == 35_746_307


def test_knobs_of_the_published_weights_are_the_preset(state):
  knobs = convert.pytorch_ddpm(state, height=32).knobs
  preset = presets.ddpm_cifar10_secmi(
    width=32, multipliers=(1, 2, 1), attention=(16,)
  )
  shared = set(knobs) & set(preset)
  assert {k: knobs[k] for k in shared} == {k: preset[k] for k in shared}
  assert set(preset) - shared == {"dropout", "learned_variance"}


def test_names_of_parallel_training_are_understood(state):
  parallel = {f"module.{name}": value for name, value in state.items()}
  one = convert.pytorch_ddpm(parallel, height=16)
  two = convert.pytorch_ddpm(state, height=16)
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


def change(state, name, value):
  return {k: v for k, v in state.items() if k != name} | (
    {} if value is None else {name: value}
  )


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("head.weight", None, "no head.weight: they are not in the layout"),
    ("tail.2.bias", None, "no tail.2.bias"),
    ("extra.weight", np.zeros(3), "1 arrays .* no place .*: extra.weight"),
    ("tail.2.bias", np.zeros((3, 1)), r"tail.2.bias have shape \(3, 1\)"),
    (
      "time_embedding.timembedding.0.weight",
      np.zeros((1000, 32)),
      "are not the sines and cosines",
    ),
    ("downblocks.0.block1.0.weight", None, "residual blocks a level"),
    ("downblocks.3.attn.proj.weight", None, "attention on some blocks"),
  ],
)
def test_other_layouts_are_refused(state, name, value, message):
  with pytest.raises(ValueError, match=message):
    convert.pytorch_ddpm(change(state, name, value), height=16)


def test_files_of_every_kind_hold_the_same(network, state, tmp_path):
  import safetensors.torch

  np.savez(tmp_path / "a.npz", **state)
  safetensors.torch.save_file(network.state_dict(), tmp_path / "a.safetensors")
  checkpoint = {
    "net_model": {k: v + 1 for k, v in network.state_dict().items()},
    "ema_model": network.state_dict(),
    "step": 800_000,
    "x_T": torch.zeros(2),
  }
  torch.save(checkpoint, tmp_path / "a.pt")
  torch.save(network.state_dict(), tmp_path / "b.pt")
  for name in ("a.npz", "a.safetensors", "a.pt", "b.pt"):
    found = weights.read(tmp_path / name)
    assert set(found) == set(state), name
    for key, value in state.items():
      np.testing.assert_array_equal(found[key], value)


class Evil:
  def __reduce__(self):
    return print, ("executed",)


def test_pickles_execute_nothing(tmp_path, capsys):
  torch.save({"ema_model": Evil()}, tmp_path / "a.pt")
  with pytest.raises(ValueError, match="without executing what is in them"):
    weights.read(tmp_path / "a.pt")
  np.savez(tmp_path / "a.npz", x=np.array([Evil()], dtype=object))
  with pytest.raises(ValueError, match="not an npz of arrays"):
    weights.read(tmp_path / "a.npz")
  assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.npz", b"", "are not an npz"),
    ("a.npz", b"short", "are not an npz"),
    ("a.safetensors", b"short", "are no safetensors"),
    ("a.pt", b"short", "cannot be read"),
    ("a.bin", b"", "expected a file named .npz"),
  ],
)
def test_what_is_no_file_of_weights(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    weights.read(tmp_path / name)
  assert "\n" not in str(error.value)
  with pytest.raises(FileNotFoundError, match="no such file"):
    weights.read(tmp_path / "none.npz")


def test_odd_contents_are_named(tmp_path):
  np.savez(tmp_path / "a.npz", w=np.array([1.0, np.nan]))
  with pytest.raises(ValueError, match="1 of 2 values of w are not finite"):
    weights.read(tmp_path / "a.npz")
  torch.save({"step": 3}, tmp_path / "a.pt")
  with pytest.raises(ValueError, match="hold no state dict, only step"):
    weights.read(tmp_path / "a.pt")

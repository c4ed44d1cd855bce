# SPDX-License-Identifier: Apache-2.0
"""Weights from PyTorch in place of training."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from diffmem import workdir
from diffmem.bin import program
from diffmem.denoiser import trained
from diffmem.train import adopt
from diffmem.train import run as fit

pytest.importorskip("torch", reason="the extra [torch] is not installed")
pytestmark = pytest.mark.torch

import torch  # noqa: E402

from tests import torch_networks  # noqa: E402

OVER = (
  "models.width=32",
  "models.groups=32",
  "models.attention=(4,)",
  "models.conventions=torch",
  "diffusion.schedule.steps=1000",
)


@pytest.fixture(scope="module")
def network():
  made = torch_networks.UNet(32, (1, 2), blocks=1, attention=(1,), channels=1)
  return torch_networks.randomised(made)


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "ckpt.pt"
  torch.save({"ema_model": network.state_dict(), "step": 5}, path)
  return path


@pytest.fixture
def config(root):
  found = program.load_config(f"{root}/configs/cifar10_ddpm.py:debug")
  found.models.update(width=32, groups=32, attention=(4,))
  found.models.conventions = "torch"
  found = found.to_dict()
  names = ("seed", "data", "models", "diffusion", "train")
  return {name: found[name] for name in names}


def test_a_converted_model_is_a_trained_one(network, file, config, tmp_path):
  adopt.run(tmp_path, **config, source=file)
  meta = workdir.require(tmp_path, "train")
  assert meta["converted"] == {"from": str(file)}
  assert meta["shape"] == [8, 8, 1]
  denoiser = trained.load(tmp_path)
  x = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
  t = np.array([3, 300, 900])
  with torch.no_grad():
    want = network(
      torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(t)
    ).numpy()
  np.testing.assert_allclose(
    denoiser.eps(x, t, None), want.transpose(0, 2, 3, 1), atol=1e-4
  )
  # The train stage of the same config has nothing left to do.
  fit.run(tmp_path, **config, progress=False)
  assert workdir.require(tmp_path, "train") == meta
  adopt.run(tmp_path, **config, source=file)
  assert workdir.require(tmp_path, "train") == meta


def test_other_weights_are_refused_where_there_are_some(
  file, config, tmp_path, network
):
  adopt.run(tmp_path / "w", **config, source=file)
  state = {k: v.numpy().copy() for k, v in network.state_dict().items()}
  state["tail.2.bias"] += 1
  np.savez(tmp_path / "other.npz", **state)
  with pytest.raises(ValueError, match="holds other weights already"):
    adopt.run(tmp_path / "w", **config, source=tmp_path / "other.npz")


@pytest.mark.parametrize(
  ("section", "key", "value", "message"),
  [
    ("models", "conventions", "ho", "conventions='torch', the config has 'ho'"),
    ("models", "width", 16, "width=32, the config has 16: give --config.mod"),
    ("models", "attention", (), r"attention=\(4,\), the config has \(\)"),
    ("diffusion", "prediction", "v", "diffusion.prediction='eps'"),
  ],
)
def test_the_config_must_say_what_the_weights_say(
  file, config, tmp_path, section, key, value, message
):
  config[section][key] = value
  with pytest.raises(ValueError, match=message):
    adopt.run(tmp_path, **config, source=file)
  assert not (tmp_path / "train").exists()


def test_the_command_and_a_stage_after_it(root, file, tmp_path):
  def run(stage, *args):
    flags = [f"--config.{value}" for value in OVER]
    return subprocess.run(
      [sys.executable, "-m", f"diffmem.bin.{stage}",
       "--config=cifar10_ddpm.py:debug", f"--workdir={tmp_path / 'w'}",
       *args, *flags],
      env={**os.environ, "PYTHONPATH": str(root)},
      capture_output=True,
      text=True,
      timeout=300,
    )  # fmt: skip

  done = run("convert")
  assert done.returncode == 1
  assert "diffmem-convert: error: --checkpoint is missing" in done.stderr
  done = run("convert", f"--checkpoint={file}")
  assert done.returncode == 0, done.stderr
  done = run("sample", "--config.sample.n=4", "--config.sample.steps=2")
  assert done.returncode == 0, done.stderr
  meta = json.loads((tmp_path / "w" / "sample" / "meta.json").read_text())
  assert meta["generated"] == 4

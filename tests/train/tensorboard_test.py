# SPDX-License-Identifier: Apache-2.0
"""TensorBoard events come through an extra, named where it is missing."""

import sys
import types

import pytest

from diffmem.train import tensorboard


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(
    ImportError, match=r"pip install 'diffmem\[tensorboard\]'"
  ):
    tensorboard.writer(tmp_path)


def test_every_metric_becomes_a_scalar_at_its_step(tmp_path, monkeypatch):
  said = []

  class Events:
    def __init__(self, folder):
      said.append(folder)

    def add_scalar(self, name, value, step):
      said.append((name, value, step))

    def flush(self):
      said.append("flush")

  fake = types.SimpleNamespace(SummaryWriter=Events)
  monkeypatch.setitem(sys.modules, "tensorboardX", fake)
  write = tensorboard.writer(tmp_path)
  write({"step": 7, "loss": 0.5, "lr": 0.1})
  assert said == [str(tmp_path), ("loss", 0.5, 7), ("lr", 0.1, 7), "flush"]


def test_a_bucket_takes_no_events():
  with pytest.raises(ValueError, match=r"not to gs://b/run: set train\.tensor"):
    tensorboard.writer("gs://b/run")

# SPDX-License-Identifier: Apache-2.0
"""The whole audit of shadow models alone, as a command, too short to learn."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent


def _audit(root, arg):
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "diffmem.bin.audit",
      f"--config=digits_membership.py:{arg}",
      f"--workdir={root}",
    ],
    capture_output=True,
    text=True,
    cwd=root.parent,
    env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    timeout=900,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return done


def test_shadows_alone_are_audited(tmp_path):
  root = tmp_path / "run"
  _audit(root, "debug")
  results = json.loads((root / "report" / "results.json").read_text())
  found = results["membership"]
  for name in ("loss", "lira", "rmia"):
    value, low, high = found[name]["auc"]
    assert low <= value <= high
    assert 0.3 < value < 0.7  # nothing was learnt
    assert found[name]["tpr@0.01"] is not None
  assert found["lira"]["kind"] == "shadow"
  assert found["lira"]["models"] == 8
  assert results["stages"]["shadows"]["seconds"] > 0
  assert results["config"]["train"]["steps"] == 20
  assert "<html" in (root / "report" / "index.html").read_text()
  assert not (root / "train").exists()
  assert not (root / "sample").exists()
  record = json.loads((root / "shadows" / "manifest.json").read_text())
  assert [m["name"] for m in record["models"]] == [
    f"shadow_{i}" for i in range(8)
  ]
  # One of them alone, in its own folder: what is trained there is kept.
  weights = root / "shadows" / "3" / "train" / "meta.json"
  before = weights.stat().st_mtime_ns
  _audit(root, "debug,shadow=3")
  assert weights.stat().st_mtime_ns == before
  results = json.loads(
    (root / "shadows" / "3" / "report" / "results.json").read_text()
  )
  assert "loss" in results["membership"]
  assert "lira" not in results["membership"]

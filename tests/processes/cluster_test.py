# SPDX-License-Identifier: Apache-2.0
"""What clusters say, without a cluster."""

import os
import subprocess
import sys

import pytest

from diffmem.processes import cluster


def test_slurm_says_who_this_is(root):
  """Its variables, as JAX reads them."""
  name = "jax_cuda_visible_devices"
  code = (
    "from diffmem.processes import cluster; import jax;"
    f"print(cluster.detect(), jax.config.values[{name!r}])"
  )
  slurm = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[003-004]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
  }
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=root,
    env={**os.environ, **slurm},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == (
    "{'index': 3, 'count': 4, 'coordinator': 'node003:61517', 'devices': [1]} 1"
  )


@pytest.mark.parametrize(
  ("devices", "bounds"),
  [
    (["/dev/accel0"], "1,1,1"),
    ([f"/dev/accel{i}" for i in range(4)], "2,2,1"),
    ([f"/dev/vfio/{i}" for i in range(8)], "2,4,1"),
  ],
)
def test_a_host_of_a_tpu_pod_is_a_machine_of_its_own(
  monkeypatch, devices, bounds
):
  monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name)
  monkeypatch.setattr(
    cluster.glob,
    "glob",
    lambda pattern: [d for d in devices if d.startswith(pattern[:9])],
  )
  found = cluster.own_chips()
  assert found["TPU_CHIPS_PER_PROCESS_BOUNDS"] == bounds
  assert found["TPU_VISIBLE_CHIPS"].count(",") == len(devices) - 1


def test_elsewhere_nothing_is_said(monkeypatch):
  assert cluster.own_chips() == {}  # no libtpu
  monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name)
  monkeypatch.setattr(cluster.glob, "glob", lambda pattern: [])
  assert cluster.own_chips() == {}

# SPDX-License-Identifier: Apache-2.0
"""Settings for every test: eight virtual devices, no silent broadcasting.

Sharded is the normal case: the suite sees eight CPU devices, set before JAX
starts. Warnings are errors (pyproject.toml) and rank promotion raises.
"""

import os
import pathlib

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
  """The checkout."""
  return ROOT


@pytest.fixture(scope="session")
def optional_data():
  """A function from a data file's name to its path; skips where it is absent.

  Looks in $DIFFMEM_TEST_DATA, or in shared/data beside the checkout.
  """
  beside = ROOT.parent / "shared" / "data"
  folder = pathlib.Path(os.environ.get("DIFFMEM_TEST_DATA", beside))

  def find(name: str) -> pathlib.Path:
    if not (folder / name).exists():
      pytest.skip(f"{folder / name} is absent")
    return folder / name

  return find

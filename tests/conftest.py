# SPDX-License-Identifier: Apache-2.0
"""Settings for every test: eight virtual devices, no silent broadcasting.

Sharded is the normal case: the suite sees eight CPU devices, set before JAX
starts. Warnings are errors (pyproject.toml) and rank promotion raises.
"""

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
  """A function from a file's name to its path; skips where it is absent.

  Looks in `shared/data` inside the checkout and beside it.
  """

  def find(name: str) -> pathlib.Path:
    for folder in (ROOT / "shared" / "data", ROOT.parent / "shared" / "data"):
      if (folder / name).exists():
        return folder / name
    pytest.skip(f"{name} is absent: put it in shared/data to run this test")

  return find

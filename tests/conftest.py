# SPDX-License-Identifier: Apache-2.0
"""Settings for every test: eight virtual devices, no silent broadcasting.

Sharded is the normal case: the suite sees eight CPU devices, set before JAX
starts. Warnings are errors (pyproject.toml) and rank promotion raises.
Compiled programs are kept between runs of the suite, and shared with the
programs that tests start: the second run takes a third of the first's time.
"""

import os
import pathlib
import runpy
from unittest import mock

import jax
import pytest

from diffmem import buckets, lease, retry
from tests import object_store

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax")
)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(autouse=True, scope="module")
def _plainly_compiled(request):
  """Networks and steps are compiled for longer than they run here.

  Programs that tests start, and slow tests of other folders, are not concerned.
  """
  plain = request.path.parent.name in ("models", "train")
  jax.config.update("jax_disable_most_optimizations", plain)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
  """The checkout."""
  return ROOT


@pytest.fixture(scope="session")
def setup_arguments() -> dict:
  """What setup.py gives to setuptools."""
  fake = mock.MagicMock()
  fake.find_packages.return_value = []
  with mock.patch.dict("sys.modules", setuptools=fake):
    runpy.run_path(str(ROOT / "setup.py"))
  return fake.setup.call_args.kwargs


@pytest.fixture(scope="session")
def _server():
  """One for all tests: gcsfs keeps the address that it saw first."""
  pytest.importorskip("gcsfs", reason="needs the extra [gcs]")
  with object_store.serve() as server:
    yield server


@pytest.fixture
def bucket(_server, monkeypatch):
  """The empty bucket gs://bucket; failing requests are repeated at once."""
  import gcsfs.retry  # pyright: ignore[reportMissingImports]

  monkeypatch.setattr(gcsfs.retry, "min", lambda *_: 0.0, raising=False)
  monkeypatch.setattr(retry, "FIRST", 0.001)
  quick = {"max_retries": 2, "initial_delay": "1ms", "max_delay": "2ms"}
  monkeypatch.setitem(retry.TENSORSTORE, "gcs_request_retries", quick)
  monkeypatch.setattr(lease, "BEAT", 0.1)
  monkeypatch.setattr(lease, "EXPIRY", 1.0)
  monkeypatch.setattr(lease, "_lost", [])
  buckets.check.cache_clear()
  _server.clear()
  yield _server
  _server.clear()


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

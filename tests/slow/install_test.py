# SPDX-License-Identifier: Apache-2.0
"""Clean installs, away from the checkout: sdist, wheel and editable."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

pytestmark = pytest.mark.slow

FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("diffmem", "configs")


def call(*command, cwd):
  """Runs a command without this checkout on its path."""
  env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  return subprocess.run(
    list(map(str, command)),
    cwd=cwd,
    env=env,
    capture_output=True,
    text=True,
    timeout=900,
  )


def must(*command, cwd):
  done = call(*command, cwd=cwd)
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


@pytest.fixture(scope="module")
def source(root, tmp_path_factory) -> pathlib.Path:
  """A copy of what is packaged: building writes into its folder."""
  folder = tmp_path_factory.mktemp("source")
  for name in FILES:
    shutil.copy(root / name, folder)
  for name in FOLDERS:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / name, folder / name, ignore=ignore)
  return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> pathlib.Path:
  """The wheel, built from the source distribution."""
  out = tmp_path_factory.mktemp("dist")
  must(sys.executable, "-m", "build", "--outdir", out, source, cwd=out)
  assert len(list(out.glob("*.tar.gz"))) == 1
  (built,) = out.glob("*.whl")
  return built


def environment(folder: pathlib.Path) -> pathlib.Path:
  """The bin folder of a fresh virtual environment."""
  must(sys.executable, "-m", "venv", folder, cwd=folder.parent)
  return folder / "bin"


def test_the_wheel_holds_every_file(source, wheel):
  """What is in the folders is in the wheel: modules, configs, templates."""
  with zipfile.ZipFile(wheel) as archive:
    packed = set(archive.namelist())
  for folder in FOLDERS:
    for path in (source / folder).rglob("*"):
      name = path.relative_to(source).as_posix()
      if path.is_file() and "__pycache__" not in path.parts:
        prefix = "" if folder == "diffmem" else "diffmem/"
        assert prefix + name in packed, f"{name} is not packaged"
  assert not [name for name in packed if name.startswith("tests")]


def test_the_wheel_runs_the_audit(wheel, tmp_path):
  here = environment(tmp_path / "venv")
  python = here / "python"
  pip = (python, "-m", "pip", "--disable-pip-version-check")
  must(*pip, "install", "--quiet", wheel, cwd=tmp_path)
  must(*pip, "check", cwd=tmp_path)
  installed = must(
    python, "-c", "import diffmem; print(diffmem.__file__)", cwd=tmp_path
  )
  assert installed.startswith(str(tmp_path / "venv"))
  command = (here / "diffmem-audit", "--config=digits.py:debug")
  must(*command, "--workdir=run", cwd=tmp_path)
  report = tmp_path / "run" / "report"
  for name in ("index.html", "matches.csv", "scores.csv"):
    assert (report / name).stat().st_size > 0
  results = json.loads((report / "results.json").read_text())
  assert results["extraction"]["generated"] == 128
  assert wheel.name.split("-")[1] == results["version"]


def test_an_editable_install_finds_the_configs(source, tmp_path):
  """Over the dependencies of this environment, to be quick."""
  here = environment(tmp_path / "venv")
  must(
    *(here / "python", "-m", "pip", "--disable-pip-version-check"),
    *("install", "--quiet", "--no-deps", "-e", source),
    cwd=tmp_path,
  )
  site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
  (site / "zz_outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
  code = "import diffmem.configs as c; print(list(c.__path__)[0])"
  found = must(here / "python", "-c", code, cwd=tmp_path)
  assert found.strip() == str(source / "configs")
  done = call(here / "diffmem-train", "--config=digits.py", cwd=tmp_path)
  assert done.returncode == 1
  assert "--workdir is missing" in done.stderr

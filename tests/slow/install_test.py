# SPDX-License-Identifier: Apache-2.0
"""Clean installs, away from the checkout: sdist, wheel, editable, repository.

The wheel is installed into another Python than that of the other tests, where
this machine has one: so both ends, 3.11 with its last JAX and 3.13 with the
newest, run the audit and the tests of TESTS.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.slow

FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("diffmem", "configs")
PYTHONS = range(11, 14)  # 3.11 to 3.13
TESTS = (  # they need nothing of the checkout, and no checkpoints
  "args_test.py",
  "denoiser/oracles_test.py",
  "diffusion/process_test.py",
  "diffusion/steppers_test.py",
  "distances/knn_test.py",
  "distances/pairs_test.py",
  "keys_test.py",
  "mesh_test.py",
  "stats",
  "store_test.py",
  "workdir_test.py",
)


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
  """A copy of what is packaged, and of its tests: building writes into it."""
  folder = tmp_path_factory.mktemp("source")
  for name in FILES:
    shutil.copy(root / name, folder)
  for name in (*FOLDERS, "tests"):
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


def environment(folder: pathlib.Path, python=sys.executable) -> pathlib.Path:
  """The bin folder of a fresh virtual environment."""
  must(python, "-m", "venv", folder, cwd=folder.parent)
  return folder / "bin"


def minor(python: str | pathlib.Path, cwd: pathlib.Path) -> int | None:
  """11 of a working Python 3.11 that makes virtual environments."""
  code = "import ensurepip, sys, venv; print(sys.version_info[1])"
  done = call(python, "-c", code, cwd=cwd)
  return int(done.stdout) if done.returncode == 0 else None


def another_python(folder: pathlib.Path) -> str:
  """The Python farthest from this one in version, or this one."""
  pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
  found = [shutil.which(f"python3.{number}") for number in PYTHONS]
  found += sorted(pyenv.glob("versions/3.*/bin/python"))
  here = sys.version_info[1]
  versions = {here: sys.executable}
  for python in filter(None, found):
    number = minor(python, folder)
    if number in PYTHONS:
      versions.setdefault(number, str(python))
  return versions[max(versions, key=lambda number: abs(number - here))]


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


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
  """The bin folder of an environment with the wheel and what tests need."""
  folder = tmp_path_factory.mktemp("installed")
  here = environment(folder / "venv", another_python(folder))
  pip = (here / "python", "-m", "pip", "--disable-pip-version-check")
  must(*pip, "install", "--quiet", wheel, cwd=folder)
  must(*pip, "check", cwd=folder)
  tools = ("pytest>=8", "beartype", "hypothesis", "zarr>=3")
  must(*pip, "install", "--quiet", *tools, cwd=folder)
  return here


def test_tests_pass_where_the_wheel_is_installed(installed, source, tmp_path):
  shutil.copy(source / "pyproject.toml", tmp_path)
  shutil.copytree(source / "tests", tmp_path / "tests")
  chosen = [f"tests/{name}" for name in TESTS]
  must(installed / "python", "-m", "pytest", "-q", *chosen, cwd=tmp_path)


def test_the_wheel_runs_the_audit(wheel, installed, tmp_path):
  code = "import diffmem; print(diffmem.__file__)"
  found = must(installed / "python", "-c", code, cwd=tmp_path)
  assert found.startswith(str(installed.parent))
  command = (installed / "diffmem-audit", "--config=digits.py:debug")
  must(*command, "--workdir=run", cwd=tmp_path)
  report = tmp_path / "run" / "report"
  for name in ("index.html", "matches.csv", "scores.csv"):
    assert (report / name).stat().st_size > 0
  results = json.loads((report / "results.json").read_text())
  assert results["extraction"]["generated"] == 128
  assert wheel.name.split("-")[1] == results["version"]


def outer(folder: pathlib.Path) -> None:
  """Lends the environment in this folder the dependencies of this one."""
  (site,) = folder.glob("lib/python*/site-packages")
  ours = [path for path in sys.path if path.endswith("site-packages")]
  (site / "zz_outer.pth").write_text("\n".join(ours) + "\n")


def test_the_repository_installs_as_notebooks_do_it(root, tmp_path):
  """By pip from git, over the dependencies of this environment."""
  if not (root / ".git").exists():
    pytest.skip(f"{root} is no git repository")
  here = environment(tmp_path / "venv")
  must(
    *(here / "python", "-m", "pip", "--disable-pip-version-check"),
    *("install", "--quiet", "--no-deps"),
    f"git+file://{root}",
    cwd=tmp_path,
  )
  outer(tmp_path / "venv")
  code = "from diffmem.configs import digits; print(digits.__file__)"
  found = must(here / "python", "-c", code, cwd=tmp_path)
  assert found.startswith(str(tmp_path / "venv"))


def test_an_editable_install_finds_the_configs(source, tmp_path):
  """Over the dependencies of this environment, to be quick."""
  here = environment(tmp_path / "venv")
  must(
    *(here / "python", "-m", "pip", "--disable-pip-version-check"),
    *("install", "--quiet", "--no-deps", "-e", source),
    cwd=tmp_path,
  )
  outer(tmp_path / "venv")
  code = "import diffmem.configs as c; print(list(c.__path__)[0])"
  found = must(here / "python", "-c", code, cwd=tmp_path)
  assert found.strip() == str(source / "configs")
  done = call(here / "diffmem-train", "--config=digits.py", cwd=tmp_path)
  assert done.returncode == 1
  assert "--workdir is missing" in done.stderr

# SPDX-License-Identifier: Apache-2.0
"""A checkout whose Python is a fake, and calls of launchers in it."""

import os
import pathlib
import shutil
import signal
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PYTHON = """#!/bin/sh
printf '%s\\n' "$0" "$PYTHONPATH"
printf '<%s>' "$@"
"""


@pytest.fixture(autouse=True)
def interruptible():
  """Programs can be interrupted, even from a suite that runs behind a shell.

  A job in the background of a script ignores SIGINT, and so does all that it
  starts.
  """
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.fixture
def awkward() -> tuple[str, ...]:
  """Arguments that a careless launcher breaks."""
  return (
    "--config=my configs/a.py:seed=1",
    '--workdir=gs://bucket/it\'s "here"',
    "--config.report.title=$HOME $(HOME) $$ `x` \\ \\n * %s",
    "two\nlines\tand a tab\n",
    "--config.ü=#no: [comment]{}&|;<>!",
    "",
  )


@pytest.fixture
def fake():
  """Writes a program, by default one that prints what it is given."""

  def write(path: pathlib.Path, text: str = PYTHON) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path

  return write


@pytest.fixture
def checkout(tmp_path) -> pathlib.Path:
  """A checkout of two programs, in a folder with a space in its name."""
  made = tmp_path / "a checkout"
  shutil.copytree(ROOT / "launch", made / "launch")
  (made / "diffmem" / "bin").mkdir(parents=True)
  for name in ("__init__", "program", "first", "second"):
    (made / "diffmem" / "bin" / f"{name}.py").touch()
  return made


@pytest.fixture
def call(checkout):
  """Runs a launcher of the fake checkout, or of a root, beside it."""

  def run(name, *args, root=checkout, **env):
    return subprocess.run(
      [str(root / "launch" / f"{name}.sh"), *args],
      cwd=checkout.parent,
      env={"PATH": os.environ["PATH"], **env},
      capture_output=True,
      text=True,
      timeout=60,
    )

  return run


@pytest.fixture
def words():
  """What a shell reads in a command, as the fake Python prints it."""

  def read(command: str, shell: str = "sh") -> str:
    code = f"set -- {command}\nprintf '<%s>' \"$@\""
    return subprocess.run(
      [shell, "-c", code],
      capture_output=True,
      text=True,
      check=True,
      timeout=60,
      env={"PATH": os.environ["PATH"], "HOME": "wrong"},
    ).stdout

  return read

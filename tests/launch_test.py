# SPDX-License-Identifier: Apache-2.0
"""The launchers run the stage that they are told, with the words they get."""

import os
import pathlib
import shutil
import subprocess

import pytest

STAGES = sorted(
  path.stem
  for path in pathlib.Path(__file__).parent.parent.glob("diffmem/bin/*.py")
  if path.stem not in ("__init__", "program")
)
AWKWARD = (
  "--config=my configs/a.py:seed=1",
  '--workdir=runs/it\'s "here"',
  "--config.report.title=$HOME `x` \\ *",
  "two\nlines",
  "",
)
PYTHON = """#!/bin/sh
printf '%s\\n' "$0" "$PYTHONPATH"
printf '<%s>' "$@"
"""


def call(script, *args, **env):
  """Runs a launcher in a folder of its own."""
  return subprocess.run(
    [str(script), *args],
    cwd=script.parent.parent.parent,
    env={"PATH": os.environ["PATH"], **env},
    capture_output=True,
    text=True,
    timeout=60,
  )


def fake(path):
  """A Python that prints who it is and what it is given."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(PYTHON)
  path.chmod(0o755)
  return path


@pytest.fixture
def checkout(root, tmp_path):
  """A checkout of two programs, in a folder with a space in its name."""
  made = tmp_path / "a checkout"
  (made / "launch").mkdir(parents=True)
  shutil.copy(root / "launch" / "local.sh", made / "launch")
  (made / "diffmem" / "bin").mkdir(parents=True)
  for name in ("__init__", "program", "first", "second"):
    (made / "diffmem" / "bin" / f"{name}.py").touch()
  return made


def test_every_launcher_is_sound_bash(root):
  scripts = sorted((root / "launch").glob("*.sh"))
  assert scripts
  for script in scripts:
    done = subprocess.run(
      ["bash", "-n", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), script
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert script.stat().st_mode & 0o100, f"{script} cannot be executed"


@pytest.mark.parametrize("stage", STAGES)
def test_dry_run_prints_the_command(root, stage):
  args = ("--config=digits.py", "--workdir=runs/digits")
  done = call(root / "launch" / "local.sh", "--dry-run", stage, *args)
  assert (done.returncode, done.stderr) == (0, "")
  venv = root / ".venv" / "bin" / "python"
  python = venv if os.access(venv, os.X_OK) else "python3"
  assert done.stdout == (
    f"PYTHONPATH={root} {python} -m diffmem.bin.{stage} {' '.join(args)}\n"
  )


@pytest.mark.parametrize("args", [(), AWKWARD])
def test_it_runs_what_the_dry_run_prints(checkout, args):
  script = checkout / "launch" / "local.sh"
  python = fake(checkout / ".venv" / "bin" / "python")
  ran = call(script, "second", *args)
  words = "".join(f"<{word}>" for word in ("-m", "diffmem.bin.second", *args))
  assert (ran.returncode, ran.stderr) == (0, "")
  assert ran.stdout == f"{python}\n{checkout}\n{words}"
  dry = call(script, "--dry-run", "second", *args)
  again = subprocess.run(
    ["bash", "-c", dry.stdout], capture_output=True, text=True, timeout=60
  )
  assert again.stdout == ran.stdout


def test_python_of_the_path_where_there_is_no_venv(checkout, tmp_path):
  python = fake(tmp_path / "bin" / "python3")
  path = f"{python.parent}:{os.environ['PATH']}"
  done = call(
    checkout / "launch" / "local.sh", "first", PATH=path, PYTHONPATH="more"
  )
  assert done.stdout == f"{python}\n{checkout}:more\n<-m><diffmem.bin.first>"


def test_the_exit_status_is_the_stages(checkout):
  python = fake(checkout / ".venv" / "bin" / "python")
  python.write_text("#!/bin/sh\nexit 7\n")
  assert call(checkout / "launch" / "local.sh", "first").returncode == 7


@pytest.mark.parametrize(
  ("args", "stage"),
  [
    (("thrid", "--workdir=w"), "thrid"),
    (("--dry-run", "program"), "program"),
    (("--dry-run", "__init__"), "__init__"),
    (("first second",), "first second"),
    (("f*",), "f*"),
    (("../bin/first",), "../bin/first"),
    (("--workdir=w", "--dry-run"), "--workdir=w"),
    ((), ""),
  ],
)
def test_an_unknown_stage_lists_the_known(checkout, args, stage):
  fake(checkout / ".venv" / "bin" / "python")
  done = call(checkout / "launch" / "local.sh", *args)
  assert (done.returncode, done.stdout) == (1, "")
  assert done.stderr == (
    f"local.sh: unknown stage '{stage}': give one of first second\n"
  )

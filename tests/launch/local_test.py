# SPDX-License-Identifier: Apache-2.0
"""Launchers are sound; local.sh runs the stage with the words it gets."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from diffmem.bin import program

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
STAGES = sorted(
  path.stem
  for path in ROOT.glob("diffmem/bin/*.py")
  if path.stem not in ("__init__", "program")
)


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.name)
def script(request) -> pathlib.Path:
  return request.param


def test_every_launcher_is_a_strict_program(script):
  lines = script.read_text(encoding="utf-8").splitlines()
  assert lines[0] == "#!/usr/bin/env bash"
  assert "set -euo pipefail" in lines
  assert script.stat().st_mode & 0o100, f"{script} cannot be executed"


def test_shellcheck_finds_nothing(script):
  beside = pathlib.Path(sys.executable).parent
  program = shutil.which("shellcheck", path=beside) or shutil.which(
    "shellcheck"
  )
  if program is None:
    pytest.skip("shellcheck is not installed (the extra [test] has it)")
  done = subprocess.run(
    [program, "-x", script, ROOT / "launch" / "options.bash"],
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert (done.returncode, done.stdout) == (0, "")


def test_help_is_the_head_of_the_launcher(call, script):
  done = call(script.stem, "--help")
  assert (done.returncode, done.stderr) == (0, "")
  assert f"launch/{script.name} " in done.stdout
  assert "STAGE --config=" in done.stdout
  assert "--dry-run" in done.stdout
  assert done.stdout[0].isupper()
  assert "set -" not in done.stdout


def test_an_unknown_option_is_refused(call, script):
  done = call(script.stem, "--dyr-run", "first")
  assert (done.returncode, done.stdout) == (1, "")
  assert done.stderr == (
    f"{script.name}: unknown option --dyr-run: {script.name} --help lists "
    "them\n"
  )


def test_commands_of_the_guide_would_run(call, root):
  text = (root / "docs" / "clusters.md").read_text(encoding="utf-8")
  lines = text.replace("\\\n", " ").splitlines()
  commands = [line for line in lines if line.startswith("    launch/")]
  named = set()
  for command in commands:
    script, *args = shlex.split(command)
    named.add(pathlib.Path(script).name)
    done = call(pathlib.Path(script).stem, "--dry-run", *args, root=root)
    assert (done.returncode, done.stderr) == (0, ""), command
  assert named == {path.name for path in SCRIPTS} - {"local.sh"}


def test_programs_know_the_flags_that_launchers_add(root):
  added = set()
  for script in SCRIPTS:
    text = script.read_text(encoding="utf-8")
    added |= set(re.findall(r"--(process(?:es)?|coordinator)=[\"\\$n]", text))
    added |= set(re.findall(r"--(distributed)\b", text))
  assert added == {"processes", "process", "coordinator", "distributed"}
  assert added <= set(program.flags.FLAGS)


@pytest.mark.parametrize("stage", STAGES)
def test_dry_run_prints_the_command(call, root, stage):
  args = ("--config=digits.py", "--workdir=runs/digits")
  done = call("local", "--dry-run", stage, *args, root=root)
  assert (done.returncode, done.stderr) == (0, "")
  venv = root / ".venv" / "bin" / "python"
  python = venv if os.access(venv, os.X_OK) else "python3"
  assert done.stdout == (
    f"PYTHONPATH={root} {python} -m diffmem.bin.{stage} {' '.join(args)}\n"
  )


@pytest.mark.parametrize("with_arguments", [False, True])
def test_it_runs_what_the_dry_run_prints(
  call, checkout, fake, awkward, with_arguments
):
  args = awkward if with_arguments else ()
  python = fake(checkout / ".venv" / "bin" / "python")
  ran = call("local", "second", *args)
  words = "".join(f"<{word}>" for word in ("-m", "diffmem.bin.second", *args))
  assert (ran.returncode, ran.stderr) == (0, "")
  assert ran.stdout == f"{python}\n{checkout}\n{words}"
  dry = call("local", "--dry-run", "second", *args)
  for shell in ("bash", "sh"):
    again = subprocess.run(
      [shell, "-c", dry.stdout], capture_output=True, text=True, timeout=60
    )
    assert again.stdout == ran.stdout


def test_python_of_the_path_where_there_is_no_venv(
  call, checkout, fake, tmp_path
):
  python = fake(tmp_path / "bin" / "python3")
  path = f"{python.parent}:{os.environ['PATH']}"
  done = call("local", "first", PATH=path, PYTHONPATH="more")
  assert done.stdout == f"{python}\n{checkout}:more\n<-m><diffmem.bin.first>"


def test_the_exit_status_is_the_stages(call, checkout, fake):
  fake(checkout / ".venv" / "bin" / "python", "#!/bin/sh\nexit 7\n")
  assert call("local", "first").returncode == 7


@pytest.mark.parametrize(
  ("args", "stage"),
  [
    (("thrid", "--workdir=w"), "thrid"),
    (("--dry-run", "program"), "program"),
    (("--dry-run", "__init__"), "__init__"),
    (("first second",), "first second"),
    (("f*",), "f*"),
    (("../bin/first",), "../bin/first"),
    ((), ""),
  ],
)
def test_an_unknown_stage_lists_the_known(call, script, args, stage):
  done = call(script.stem, *args)
  assert (done.returncode, done.stdout) == (1, "")
  assert done.stderr == (
    f"{script.name}: unknown stage '{stage}': give one of first second\n"
  )

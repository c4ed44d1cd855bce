# SPDX-License-Identifier: Apache-2.0
"""slurm.sh: the script that sbatch gets, run here by a fake srun."""

import os
import subprocess

import pytest

SRUN = '#!/bin/sh\nshift\nexec "$@"\n'  # without its own option


@pytest.fixture
def slurm(call, checkout, fake, tmp_path):
  """Runs slurm.sh; sbatch keeps what it is given."""
  fake(checkout / ".venv" / "bin" / "python")
  fake(tmp_path / "bin" / "sbatch", "#!/bin/sh\ncat >submitted\nexit $RC\n")
  fake(tmp_path / "bin" / "srun", SRUN)
  path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

  def run(*args, rc=0):
    return call("slurm", *args, PATH=path, RC=str(rc))

  run.path = path
  return run


def execute(script: str, path: str, **env) -> str:
  return subprocess.run(
    ["bash", "-c", script],
    env={"PATH": path, **env},
    capture_output=True,
    text=True,
    check=True,
    timeout=60,
  ).stdout


def options(script: str) -> list[str]:
  lines = script.splitlines()
  return [line[8:] for line in lines if line.startswith("#SBATCH ")]


def test_several_nodes_run_a_process_for_each_gpu(
  slurm, checkout, awkward, tmp_path
):
  args = ("--nodes=4", "--gpus=8", "--sbatch=--partition=gpu", "first")
  dry = slurm("--dry-run", *args, *awkward)
  assert (dry.returncode, dry.stderr) == (0, "")
  assert not (tmp_path / "submitted").exists()
  assert options(dry.stdout) == [
    "--job-name=diffmem-first",
    "--nodes=4",
    "--ntasks-per-node=8",
    "--gpus-per-node=8",
    "--requeue",
    "--open-mode=append",
    "--partition=gpu",
  ]
  given = "".join(f"<{word}>" for word in awkward)
  assert execute(dry.stdout, slurm.path) == (
    f"{checkout}/.venv/bin/python\n{checkout}\n"
    f"<-m><diffmem.bin.first>{given}<--distributed>"
  )
  assert slurm(*args, *awkward).returncode == 0
  assert (tmp_path / "submitted").read_text() == dry.stdout


def test_one_node_is_one_process_with_all_its_gpus(slurm):
  done = slurm("--gpus=8", "--dry-run", "second", "--workdir=w")
  assert "--ntasks-per-node=1" in options(done.stdout)
  assert "--gpus-per-node=8" in options(done.stdout)
  assert "--distributed" not in done.stdout


@pytest.mark.parametrize(
  ("config", "spelled"),
  [
    ("--config=a.py", "--config=a.py:shadow=3"),
    ("--config=my a.py:seed=1", "--config=my a.py:seed=1,shadow=3"),
  ],
)
def test_an_array_is_a_job_for_each_shadow(slurm, config, spelled):
  args = (
    "--array=0-15%4",
    "--dry-run",
    "first",
    config,
    "$SLURM_ARRAY_TASK_ID",
  )
  done = slurm(*args)
  assert "--array=0-15%4" in options(done.stdout)
  out = execute(done.stdout, slurm.path, SLURM_ARRAY_TASK_ID="3")
  words = ("-m", "diffmem.bin.first", spelled, "$SLURM_ARRAY_TASK_ID")
  assert out.endswith("\n" + "".join(f"<{word}>" for word in words))


def test_paths_are_relative_to_where_it_was_called(slurm, checkout, tmp_path):
  fake_python = checkout / ".venv" / "bin" / "python"
  fake_python.write_text("#!/bin/sh\npwd\n")
  dry = slurm("--dry-run", "first", "--workdir=w")
  assert execute(dry.stdout, slurm.path) == f"{tmp_path}\n"


def test_the_status_is_that_of_sbatch(slurm):
  assert slurm("first", "--workdir=w", rc=3).returncode == 3


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (("--nodes=0", "first"), "--nodes=0: expected a whole number"),
    (("--gpus=a", "first"), "--gpus=a: expected a whole number"),
    (("--array=x", "first"), "--array=x: expected numbers of shadow models"),
    (("--array=1", "first"), "--array=1 needs one --config=FILE.py"),
    (("--sbatch=-p gpu", "first"), "--sbatch=-p gpu: expected --sbatch="),
    (("--sbatch=--x=a\n--y", "first"), "--sbatch=--x=a\n--y: expected"),
  ],
)
def test_bad_options_are_refused(slurm, tmp_path, args, message):
  done = slurm(*args)
  assert (done.returncode, done.stdout) == (1, "")
  assert done.stderr.startswith(f"slurm.sh: {message}")
  assert not (tmp_path / "submitted").exists()

# SPDX-License-Identifier: Apache-2.0
"""Every program: help without JAX, one-line errors, exit statuses."""

import os
import subprocess
import sys

import pytest

from diffmem.bin import program

HEAVY = (
  "jax",
  "flax",
  "optax",
  "orbax",
  "tensorflow",
  "tensorflow_datasets",
  "torch",
  "numpy",
  "scipy",
  "sklearn",
  "matplotlib",
  "tensorstore",
)
STAGES = (
  "audit",
  "choose",
  "claims",
  "compare",
  "convert",
  "distances",
  "extraction",
  "inpaint",
  "measures",
  "membership",
  "plan",
  "prompts",
  "quality",
  "report",
  "sample",
  "side",
  "train",
)


@pytest.fixture
def run(root, tmp_path):
  """Runs `python -m diffmem.bin.<stage> args...`, by default elsewhere."""

  def call(stage, *args, cwd=tmp_path, python=()):
    return subprocess.run(
      [sys.executable, *python, "-m", f"diffmem.bin.{stage}", *args],
      cwd=cwd,
      env={**os.environ, "PYTHONPATH": str(root)},
      capture_output=True,
      text=True,
      timeout=120,
    )

  return call


def fake(tmp_path, body):
  """A program that runs `body` as its stage, without any stage."""
  path = tmp_path / "fake.py"
  path.write_text(
    '"""A stage for tests."""\n'
    "from diffmem.bin import program\n"
    f"def main(config, workdir):\n  {body}\n"
    "program.start('fake', main)\n"
  )
  return path


@pytest.fixture
def run_fake(root, tmp_path):
  """Runs a program with this body, with no compilation cache of the suite."""

  def call(body, *args, env=()):
    kept = dict(os.environ, PYTHONPATH=str(root))
    kept.pop("JAX_COMPILATION_CACHE_DIR", None)
    return subprocess.run(
      [sys.executable, str(fake(tmp_path, body)), *args],
      cwd=tmp_path,
      env={**kept, **dict(env)},
      capture_output=True,
      text=True,
      timeout=120,
    )

  return call


GOOD = ("--config=digits.py", "--workdir=w")


def test_stages_are_the_programs(root):
  files = {p.stem for p in (root / "diffmem" / "bin").glob("*.py")}
  assert files - {"__init__", "program"} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_help_loads_nothing_heavy(run, stage):
  done = run(stage, "--help", python=("-X", "importtime"))
  assert done.returncode in (0, 1)  # absl's help exits 1
  for flag in ("--config", "--workdir", "traceback", f"diffmem-{stage}"):
    assert flag in done.stdout
  loaded = {
    line.rpartition("|")[2].strip().partition(".")[0]
    for line in done.stderr.splitlines()
  }
  assert "diffmem" in loaded  # the probe sees imports
  assert not loaded & set(HEAVY)


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (
      [*GOOD, "--config.train.stesp=3"],
      "unknown config.train key 'stesp': did you mean 'steps'?",
    ),
    ([*GOOD, "--config.trian.steps=3"], "did you mean 'train'?"),
    ([*GOOD, "--config.seed.x=3"], "config.seed is a value, not a section"),
    ([*GOOD, "--noconfig.train.filp"], "did you mean 'flip'?"),
    ([*GOOD, "--config.train.steps=many"], "--config.train.steps=many"),
    ([*GOOD, "--wrokdir=x"], "Did you mean: workdir"),
    ([*GOOD, "extra"], "unexpected argument 'extra'"),
    (["--config=digits.py:debgu", "--workdir=w"], "did you mean 'debug'?"),
    (["--config=nonesuch.py", "--workdir=w"], "nonesuch.py does not exist"),
    (["--config=digits.py"], "--workdir is missing"),
    (["--workdir=w"], "--config is missing"),
  ],
)
def test_errors_are_one_line_and_early(run, args, message):
  done = run("train", *args, python=("-X", "importtime"))
  assert done.returncode == 1
  lines = [
    line
    for line in done.stderr.splitlines()
    if not line.startswith("import time:")
  ]
  assert len(lines) == 1, lines
  assert lines[0].startswith("diffmem-train: error: ")
  assert message in lines[0]
  assert " jax\n" not in done.stderr


def test_a_relative_path_wins_over_an_installed_config(run_fake, tmp_path):
  (tmp_path / "digits.py").write_text(
    "import ml_collections\n"
    "def get_config(arg=''):\n"
    "  return ml_collections.ConfigDict(dict(mine=(1, 2), arg=arg))\n"
  )
  done = run_fake("print(config, workdir)", "--config=digits.py:x", *GOOD[1:])
  assert done.stdout.strip() == "{'arg': 'x', 'mine': (1, 2)} w"


def test_config_arrives_as_plain_dictionaries(run_fake):
  done = run_fake(
    "print(type(config['data']['split']).__name__,"
    " config['data']['split']['planted'], config['data']['resize'],"
    " config['seed'], config['models']['multipliers'],"
    " config['train']['lr'], config['train']['flip'])",
    *("--config", "digits.py:seed=3", "--workdir", "w"),
    "--config.data.split.planted=((9, 1),)",
    "--config.data.resize=16",
    "--config.models.multipliers=(1, 2, 2)",
    "--config.train.lr=1",
    "--config.train.flip",
  )
  assert done.stdout.strip() == "dict ((9, 1),) 16 3 (1, 2, 2) 1.0 True"
  assert done.returncode == 0


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ("raise ValueError('bad\\n  value')", "error: bad value"),
    ("raise FileNotFoundError('gone: run x')", "error: gone: run x"),
    ("raise OSError(28, 'No space left', 'f')", "No space left"),
    ("raise TypeError('odd')", "error: TypeError: odd (--traceback shows"),
    ("raise KeyError('k')", "error: KeyError: 'k' (--traceback shows"),
    ("1 / 0", "error: ZeroDivisionError: division by zero"),
    ("assert False", "error: AssertionError (--traceback shows"),
  ],
)
def test_a_failing_stage_says_so_in_one_line(run_fake, body, message):
  done = run_fake(body, *GOOD)
  assert done.returncode == 1
  assert done.stderr.count("\n") == 1
  assert message in done.stderr
  assert done.stderr.startswith("diffmem-fake: error: ")


def test_traceback_on_request(run_fake):
  done = run_fake("raise ValueError('bad')", *GOOD, "--traceback")
  assert done.returncode == 1
  assert "Traceback (most recent call last)" in done.stderr
  assert "fake.py" in done.stderr


def test_interrupt_is_one_line_and_130(run_fake):
  done = run_fake("raise KeyboardInterrupt", *GOOD)
  assert done.returncode == 130
  assert done.stderr.count("\n") == 1
  assert done.stderr.startswith("diffmem-fake: interrupted")


def test_logging_is_plain_lines_of_our_own(run_fake):
  done = run_fake(
    "import logging; logging.getLogger('diffmem.x').info('step 1');"
    " logging.getLogger('other').info('noise');"
    " logging.getLogger('absl').info('noise')",
    *GOOD,
  )
  assert done.stderr.count("\n") == 1
  assert done.stderr.endswith(" step 1\n")
  assert done.stdout == ""


def test_compilations_are_cached_where_writable(run_fake, tmp_path):
  body = "import os; print(os.environ.get('JAX_COMPILATION_CACHE_DIR'))"
  home = tmp_path / "home"
  home.mkdir()
  done = run_fake(body, *GOOD, env={"HOME": str(home)})
  assert done.stdout.strip() == str(home / ".cache" / "diffmem")
  own = tmp_path / "own"
  env = {"JAX_COMPILATION_CACHE_DIR": str(own)}
  assert run_fake(body, *GOOD, env=env).stdout.strip() == str(own)
  assert own.is_dir()
  (tmp_path / "file").touch()
  env = {"HOME": str(tmp_path / "file")}  # no folder can be made below it
  assert run_fake(body, *GOOD, env=env).stdout.strip() == "None"


def test_a_shadow_has_a_folder_of_its_own(run_fake):
  name = "--config=digits_membership.py:shadow=3"
  done = run_fake("print(workdir)", name, "--workdir=w")
  assert done.stdout.strip() == "w/shadows/3"
  done = run_fake("print(workdir)", name, "--workdir=w/shadows/3")
  assert done.stdout.strip() == "w/shadows/3"
  done = run_fake("print(workdir)", name, "--workdir=w/shadows/2")
  assert done.returncode == 1
  assert done.stderr.count("\n") == 1
  assert "--workdir=w/shadows/2 is that of shadow 2" in done.stderr


def test_configs_without_get_config_are_refused(tmp_path):
  path = tmp_path / "empty.py"
  path.touch()
  with pytest.raises(ValueError, match="defines no get_config"):
    program.load_config(str(path))
  text = tmp_path / "config.txt"
  text.touch()
  with pytest.raises(ValueError, match="no Python file"):
    program.load_config(str(text))

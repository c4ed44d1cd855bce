# SPDX-License-Identifier: Apache-2.0
"""pod.sh: N processes that meet, one log each, the first failure is told."""

import os
import re
import signal
import subprocess
import time

import pytest

# Prints its words and its process id, then does what $DO says for its number.
PYTHON = r"""#!/usr/bin/env bash
trap 'echo stopped; exit 143' TERM
trap 'echo interrupted; exit 130' INT
for word; do
  case $word in --process=*) i=${word#*=} ;; esac
done
echo $$ >"pid-$i"
printf '<%s>' "$@"
echo
case " $DO " in
  *" fail-$i "*) sleep 0.3; echo "error: bad $i" >&2; exit 7 ;;
  *" late-$i "*) sleep 1; echo "gone on alone"; exit "$i" ;;
  *" wait-$i "*) for ((k = 0; k < 300; k++)); do sleep 0.1; done ;;
esac
"""


@pytest.fixture
def pod(call, checkout, fake):
  fake(checkout / ".venv" / "bin" / "python", PYTHON)

  def run(*args, do=""):
    return call("pod", *args, DO=do)

  return run


def logs(folder) -> dict[str, str]:
  return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def gone(folder) -> bool:
  """Whether no process that ran in this folder is left."""
  for path in folder.glob("pid-*"):
    try:
      os.kill(int(path.read_text()), 0)
    except ProcessLookupError:
      continue
    return False
  return True


def test_every_process_runs_the_stage_with_its_number(pod, awkward, tmp_path):
  done = pod("--processes=3", f"--logs={tmp_path}/my logs", "first", *awkward)
  assert done.returncode == 0, done.stderr
  assert done.stderr == f"pod.sh: 3 processes, logs in {tmp_path}/my logs\n"
  found = logs(tmp_path / "my logs")
  assert list(found) == [f"process-{i}.log" for i in range(3)]
  given = "".join(f"<{word}>" for word in ("-m", "diffmem.bin.first", *awkward))
  ports = set()
  for i, text in enumerate(found.values()):
    match = re.fullmatch(
      re.escape(f"{given}<--processes=3><--process={i}>")
      + r"<--coordinator=localhost:(\d+)>\n",
      text,
    )
    assert match, text
    ports.add(match.group(1))
  assert len(ports) == 1
  assert done.stdout == found["process-0.log"]


def test_logs_stand_in_the_workdir_and_grow(pod, tmp_path):
  for _ in range(2):
    assert pod("second", "--workdir=my run").returncode == 0
  found = logs(tmp_path / "my run" / "logs")
  assert [text.count("\n") for text in found.values()] == [2, 2]


def test_dry_run_prints_what_would_run(pod, awkward, tmp_path):
  dry = pod(
    "--processes=2", "--logs=l", "--port=77", "--dry-run", "first", *awkward
  )
  assert not (tmp_path / "l").exists()
  pod("--processes=2", "--logs=l", "--port=77", "first", *awkward)
  ran = logs(tmp_path / "l")
  subprocess.run(
    ["sh", "-c", dry.stdout.replace("l/process", "again/process")],
    cwd=(tmp_path / "again").mkdir() or tmp_path,
    env={"PATH": os.environ["PATH"], "DO": ""},
    check=True,
    timeout=60,
  )
  assert logs(tmp_path / "again") == ran


@pytest.mark.parametrize("bad", [0, 2])
def test_the_first_failure_is_told_and_the_others_go_on(pod, tmp_path, bad):
  others = {0, 1, 2} - {bad}
  done = pod(
    *("--processes=3", "first", "--workdir=w"),
    do=f"fail-{bad} " + " ".join(f"late-{i}" for i in others),
  )
  assert done.returncode == 7
  lines = done.stderr.splitlines()
  assert lines[1] == (
    f"pod.sh: process {bad} of 3 ended with status 7; the others do what they "
    f"can without it. The end of w/logs/process-{bad}.log:"
  )
  assert lines[-1] == f"error: bad {bad}"
  assert len(lines) == 4  # what fails later follows from it
  found = logs(tmp_path / "w" / "logs")
  for i in others:
    assert found[f"process-{i}.log"].endswith("gone on alone\n")
  assert gone(tmp_path)


@pytest.mark.parametrize(
  ("number", "status", "word"),
  [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped")],
)
def test_a_signal_reaches_every_process(
  pod, checkout, tmp_path, number, status, word
):
  del pod  # its Python
  running = subprocess.Popen(
    [checkout / "launch" / "pod.sh", "first", "--workdir=w"],
    cwd=tmp_path,
    env={"PATH": os.environ["PATH"], "DO": "wait-0 wait-1"},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 30
  while len(list(tmp_path.glob("pid-*"))) < 2:
    assert time.monotonic() < deadline
    time.sleep(0.05)
  running.send_signal(number)
  assert running.wait(30) == status
  assert gone(tmp_path)
  found = logs(tmp_path / "w" / "logs")
  assert all(text.endswith(f"{word}\n") for text in found.values())


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (("first",), "--workdir='' is no folder for logs: give --logs=DIR"),
    (
      ("first", "--workdir=gs://b/w"),
      "--workdir='gs://b/w' is no folder for logs: give --logs=DIR",
    ),
    (
      ("--processes=0", "first", "--workdir=w"),
      "--processes=0: expected a whole number of at least 1",
    ),
    (
      ("--processes=two", "first", "--workdir=w"),
      "--processes=two: expected a whole number of at least 1",
    ),
    (
      ("--port=-1", "first", "--workdir=w"),
      "--port=-1: expected a whole number of at least 1",
    ),
  ],
)
def test_bad_options_are_refused(pod, tmp_path, args, message):
  done = pod(*args)
  assert (done.returncode, done.stdout) == (1, "")
  assert done.stderr == f"pod.sh: {message}\n"
  assert not (tmp_path / "w").exists()

# SPDX-License-Identifier: Apache-2.0
"""tpu.sh: makes, installs, runs, and deletes however the run ends.

gcloud is a fake: it writes down its calls, and runs what is meant for the
workers in a folder.
"""

import os
import signal
import subprocess
import time

import pytest

OPTIONS = (
  "--name=slice",
  "--zone=z",
  "--accelerator=v5litepod-16",
  "--version=v2",
)
STAGE = ("first", "--config=a.py", "--workdir=gs://b/w")
GCLOUD = r"""#!/usr/bin/env bash
verb=$4
printf '%s\n' "$verb" >>calls
{ printf '<%s>' "$@"; echo; } >>words
case " $DO " in
  *" wait-$verb "*) touch waiting; sleep 30 ;;
  *" fail-$verb "*) exit 5 ;;
esac
case $verb in
  create) touch made ;;
  delete) rm -f made ;;
  list) printf '%s\n' other $THERE; [ ! -e made ] || echo slice ;;
  scp) [ "$5" = diffmem.tar.gz ] || cp "$5" diffmem.tar.gz ;;
  ssh)
    for word; do
      case $word in --command=*) HOME=$PWD bash -c "${word#*=}" || exit ;; esac
    done
    ;;
esac
"""
WORKER_UV = '#!/bin/sh\nprintf "<%s>" uv "$@"\necho\n'


@pytest.fixture
def tpu(call, checkout, fake, tmp_path):
  """Runs tpu.sh with a gcloud, a curl and a sleep that are fakes."""
  bin_folder = tmp_path / "bin"
  fake(bin_folder / "gcloud", GCLOUD)
  fake(
    bin_folder / "sleep",
    "#!/bin/sh\ncase $1 in 30) exec /bin/sleep 30 ;; esac\n",
  )
  fake(bin_folder / "curl", "#!/bin/sh\n")
  fake(bin_folder / "python3")  # of the workers, where there is no .venv
  fake(tmp_path / ".local" / "bin" / "uv", WORKER_UV)
  (checkout / "configs" / "my configs").mkdir(parents=True)
  for name in ("a.py", "my configs/a.py"):
    (checkout / "configs" / name).touch()
  for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
    (checkout / name).touch()
  path = f"{bin_folder}:{os.environ['PATH']}"

  def run(*args, do="", there=""):
    return call("tpu", *args, PATH=path, DO=do, THERE=there)

  run.path = path
  return run


def calls(folder) -> list[str]:
  path = folder / "calls"
  return path.read_text().split() if path.exists() else []


def test_it_makes_installs_runs_and_deletes(tpu, awkward, tmp_path):
  done = tpu(*OPTIONS, "--spot", "--project=p", "second", *awkward)
  assert done.returncode == 0, done.stderr
  assert calls(tmp_path) == ["list", "create", "scp", "ssh", "ssh", "delete"]
  words = (tmp_path / "words").read_text()
  assert (
    "<create><slice><--accelerator-type=v5litepod-16><--version=v2><--spot>"
    "<--zone=z><--project=p>" in words
  )
  assert "<delete><slice><--quiet><--zone=z><--project=p>\n" in words
  assert "<uv><pip><install><--quiet><jax[tpu]><.[gcs]>" in done.stdout
  given = "".join(f"<{word}>" for word in awkward)
  assert done.stdout.endswith(f"<-m><diffmem.bin.second>{given}<--distributed>")
  assert str(tmp_path / "diffmem") in done.stdout  # the code of the workers


def test_dry_run_prints_these_commands_and_runs_none(tpu, awkward, tmp_path):
  args = (*OPTIONS, "first", *awkward)
  dry = tpu("--dry-run", *args)
  assert (dry.returncode, dry.stderr) == (0, "")
  assert calls(tmp_path) == []
  subprocess.run(
    ["sh", "-e", "-c", dry.stdout],
    cwd=tmp_path,
    env={"PATH": tpu.path, "DO": "", "THERE": ""},
    check=True,
    capture_output=True,
    timeout=60,
  )
  printed = (tmp_path / "words").read_text()
  (tmp_path / "words").unlink()
  assert tpu(*args).returncode == 0
  ran = (tmp_path / "words").read_text().splitlines()[1:]  # without the list
  scp = next(i for i, line in enumerate(ran) if "<scp>" in line)
  temporary = ran[scp].split("<")[5].rstrip(">")
  assert not os.path.exists(temporary)
  assert "\n".join(ran).replace(temporary, "diffmem.tar.gz") == printed.strip()


@pytest.mark.parametrize("verb", ["create", "scp", "ssh"])
def test_a_failure_deletes_the_slice(tpu, tmp_path, verb):
  done = tpu(*OPTIONS, *STAGE, do=f"fail-{verb}")
  assert done.returncode == 5
  assert calls(tmp_path)[-2:] == [verb, "delete"]


def test_a_stage_that_fails_gives_its_status(tpu, fake, tmp_path):
  fake(tmp_path / "bin" / "python3", "#!/bin/sh\nexit 7\n")
  assert tpu(*OPTIONS, *STAGE).returncode == 7
  assert calls(tmp_path)[-1] == "delete"


@pytest.mark.parametrize(
  ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_deletes_the_slice(tpu, checkout, tmp_path, number, status):
  running = subprocess.Popen(
    [checkout / "launch" / "tpu.sh", *OPTIONS, *STAGE],
    cwd=tmp_path,
    env={"PATH": tpu.path, "DO": "wait-create", "THERE": ""},
    start_new_session=True,
  )
  deadline = time.monotonic() + 30
  while not (tmp_path / "waiting").exists():
    assert time.monotonic() < deadline
    time.sleep(0.05)
  os.killpg(running.pid, number)  # as a terminal does
  assert running.wait(30) == status
  assert calls(tmp_path) == ["list", "create", "delete"]


def test_a_slice_that_cannot_be_deleted_is_said_loudly(tpu, tmp_path):
  done = tpu(*OPTIONS, *STAGE, do="fail-delete")
  assert done.returncode == 1
  assert calls(tmp_path)[-6:] == ["delete", "list"] * 3
  assert done.stderr == (
    "tpu.sh: slice COULD NOT BE DELETED and costs money until: "
    "gcloud compute tpus tpu-vm delete slice --zone=z\n"
  )


def test_a_slice_that_was_never_made_is_no_alarm(tpu, tmp_path):
  done = tpu(*OPTIONS, *STAGE, do="fail-create fail-delete")
  assert (done.returncode, done.stderr) == (5, "")
  assert calls(tmp_path) == ["list", "create", "delete", "list"]


def test_a_slice_that_is_there_is_nobodys_to_delete(tpu, tmp_path):
  done = tpu(*OPTIONS, *STAGE, there="slice")
  assert done.returncode == 1
  assert done.stderr.startswith("tpu.sh: slice is there already: give another")
  assert calls(tmp_path) == ["list"]
  done = tpu(*OPTIONS, *STAGE, do="fail-list")
  assert done.returncode == 5
  assert calls(tmp_path) == ["list", "list"]


def test_keep_uses_it_and_leaves_it(tpu, tmp_path):
  done = tpu(*OPTIONS, "--keep", *STAGE, there="slice")
  assert done.returncode == 0
  assert calls(tmp_path) == ["list", "scp", "ssh", "ssh"]
  assert done.stderr == (
    "tpu.sh: slice is kept, and costs money until: "
    "gcloud compute tpus tpu-vm delete slice --zone=z\n"
  )


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ((*OPTIONS[1:], *STAGE), "--name is missing: tpu.sh --help shows"),
    ((*OPTIONS[:3], *STAGE), "--version is missing: tpu.sh --help shows"),
    (
      (*OPTIONS, "first", "--config=a.py", "--workdir=runs/x"),
      "--workdir='runs/x': expected gs://BUCKET/DIR, the disks",
    ),
    (
      (*OPTIONS, "first", "--workdir=gs://b/w", "--config=../b.py:seed=1"),
      "--config='../b.py' is none of this checkout's configs/",
    ),
  ],
)
def test_bad_options_are_refused(tpu, tmp_path, args, message):
  done = tpu(*args)
  assert (done.returncode, done.stdout) == (1, "")
  assert done.stderr.startswith(f"tpu.sh: {message}")
  assert done.stderr.count("\n") == 1
  assert calls(tmp_path) == []

# SPDX-License-Identifier: Apache-2.0
"""How processes meet: threads stand in for them."""

import concurrent.futures
import json
import os
import time

import pytest

from diffmem.processes import meeting
from diffmem.processes.member import Member

ABOUT = {"program": "diffmem-train", "version": "1", "config": {"a": {"b": 1}}}


def start(folder, index, count, about=ABOUT, wait=1.5):
  """One process: its member, or the error that it ends with."""
  member = Member(folder, index, count, about)
  try:
    meeting.meet(member, wait=wait)
  except Exception as error:
    member.leave(str(error))
    return error
  return member


def together(*calls):
  """Starts all at once; what becomes of each."""
  with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
    jobs = [pool.submit(start, *call[:-1], **call[-1]) for call in calls]
    return [job.result() for job in jobs]


def call(folder, index, count, **more):
  return folder, index, count, more


@pytest.fixture
def folder(tmp_path):
  return tmp_path / "run" / ".processes"


def test_all_know_the_same_files(folder):
  found = together(*(call(folder, i, 3) for i in (2, 0, 1)))
  assert [member.index for member in found] == [2, 0, 1]
  assert found[0].files == found[1].files == found[2].files
  assert sorted(found[0].files) == [0, 1, 2]
  for member in found:
    member.leave()


def test_late_ones_are_waited_for(folder):
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(start, folder, 0, 2, wait=10.0)
    time.sleep(0.7)
    second = pool.submit(start, folder, 1, 2)
    assert first.result().files == second.result().files
  first.result().leave()
  second.result().leave()


@pytest.mark.parametrize(
  ("calls", "message"),
  [
    (
      [(0, 2, {}), (1, 3, {})],
      "process 0 was started with --processes=2, process 1 with --processes=3",
    ),
    (
      [(1, 2, {}), (1, 2, {})],
      "two processes have --process=1",
    ),
    (
      [(0, 2, {}), (1, 2, {"about": {**ABOUT, "version": "2"}})],
      "process 0 has version = '1', process 1 has '2': install the same",
    ),
    (
      [(0, 2, {}), (1, 2, {"about": {**ABOUT, "program": "diffmem-sample"}})],
      "process 0 has program = 'diffmem-train', process 1 has 'diffmem-sample'",
    ),
    (
      [
        (0, 3, {}),
        (1, 3, {}),
        (2, 3, {"about": {**ABOUT, "config": {"a": {"b": 2, "c": 0}}}}),
      ],
      r"process 0 has config\.a\.b = 1, process 2 has 2: give all",
    ),
  ],
)
def test_a_wrong_set_up_ends_in_every_process(folder, calls, message):
  for error in together(*(call(folder, i, n, **more) for i, n, more in calls)):
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match=message):
      raise error


def test_who_comes_late_learns_of_the_mistake_too(folder):
  other = {**ABOUT, "version": "2"}
  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    jobs = [
      pool.submit(start, folder, 0, 3, wait=5.0),
      pool.submit(start, folder, 1, 3, other, wait=5.0),
    ]
    time.sleep(1)
    jobs.append(pool.submit(start, folder, 2, 3, wait=5.0))
    found = {str(job.result()) for job in jobs}
  assert len(found) == 1
  assert "has version" in found.pop()


def test_who_meets_nobody_says_what_to_look_at(tmp_path):
  found = together(
    call(tmp_path / "here" / ".processes", 0, 2, wait=0.5),
    call(tmp_path / "there" / ".processes", 1, 2, wait=0.5),
  )
  for i, name in enumerate(("here", "there")):
    assert isinstance(found[i], TimeoutError)
    assert f"process {i} of 2 met no process {1 - i} in" in str(found[i])
    assert name in str(found[i])
    assert "same --workdir" in str(found[i])


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "run").write_text("a file")
  with pytest.raises(OSError, match=r"process 0 cannot write to .*--workdir"):
    raise start(tmp_path / "run" / ".processes", 0, 2)


def test_files_of_dead_runs_count_for_nothing(folder):
  folder.mkdir(parents=True)
  left = Member(folder, 1, 2, ABOUT)
  content = {**left._content, "pid": 2**22 + 1}  # no such process
  (folder / left.name).write_text(json.dumps(content))
  elsewhere = {**content, "nonce": "x", "machine": "another, long gone"}
  (folder / "1.x.json").write_text(json.dumps(elsewhere))
  (folder / "0.half.json").write_text('{"index": 0, "co')
  found = together(*(call(folder, i, 2) for i in (0, 1)))
  assert found[0].files == found[1].files
  assert not (folder / left.name).exists()
  for member in found:
    member.leave()


def test_a_run_that_is_at_work_is_not_disturbed(folder):
  first = together(*(call(folder, i, 2) for i in (0, 1)))
  files = dict(first[0].files)
  second = together(*(call(folder, i, 2, wait=0.8) for i in (0, 1)))
  for error in second:
    assert isinstance(error, TimeoutError)
    assert "another run of 2 processes is at work" in str(error)
    assert f"pid {os.getpid()}" in str(error)
  assert first[0].files == files
  first[0].announce("here")
  assert first[1].wait("here", (0,)) == {0: True}
  for member in first:
    member.leave()


@pytest.mark.usefixtures("bucket")
def test_they_meet_in_a_bucket():
  folder = "gs://bucket/run/.processes"
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(start, folder, 0, 2, wait=20.0)
    time.sleep(1)  # listings are not taken from memory
    second = pool.submit(start, folder, 1, 2, wait=20.0)
    pair = first.result(), second.result()
  assert pair[0].files == pair[1].files
  pair[0].announce("open", "gs")
  assert pair[1].wait("open", (0,)) == {0: "gs"}
  pair[0].leave("no rights")
  with pytest.raises(RuntimeError, match="process 0 stopped: no rights"):
    pair[1].wait("closed", (0,))
  pair[1].leave()

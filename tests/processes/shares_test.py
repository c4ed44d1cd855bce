# SPDX-License-Identifier: Apache-2.0
"""What falls to which process; threads stand in for processes."""

import concurrent.futures
import contextlib
import threading
from collections import Counter

import numpy as np
import pytest

from diffmem import processes, store, workdir
from diffmem.processes import meeting
from diffmem.processes import member as module
from diffmem.processes.member import Member
from diffmem.sample import pipeline_blocks


class _Threads(threading.local):
  """The state of the module, one for each thread."""

  def __init__(self):
    self.member, self.announce, self.alone = None, None, False
    self.events, self.prefix = Counter(), ""
    self.coordinator = self.devices = None


@pytest.fixture
def spread(tmp_path, monkeypatch):
  """Calls a function of its number in each of n processes: the results."""
  monkeypatch.setattr(module, "POLL", 0.02)
  monkeypatch.setattr(meeting, "LOOK", 0.05)
  run = _Threads()
  monkeypatch.setattr(processes, "_run", run)

  def one(function, i, n):
    member = Member(tmp_path / ".processes", i, n)
    meeting.meet(member, wait=10.0)
    run.member, run.announce = member, member.announce
    try:
      result = function(i)
    except Exception as error:
      member.leave(str(error))
      return error
    member.leave()
    return result

  def call(n, function):
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
      return list(pool.map(lambda i: one(function, i, n), range(n)))

  return call


def test_alone_everything_falls_to_this_process():
  assert (processes.index(), processes.count()) == (0, 1)
  assert processes.leads()
  assert processes.share([3, 5]) == [3, 5]
  parts = processes.parts(lambda: [1], 4, what="it")
  assert list(parts) == [[0, 2, 3]]
  assert list(processes.parts(lambda: [0], 1, what="it")) == []


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10])
def test_shares_are_runs_that_make_up_the_whole(spread, size):
  numbers = [2 * i for i in range(size)]
  found = spread(3, lambda _: processes.share(numbers))
  assert [i for part in found for i in part] == numbers
  assert max(map(len, found)) - min(map(len, found)) <= 1


def test_parts_end_when_nothing_is_missing(spread):
  there, lock = {4}, threading.Lock()

  def work(_):
    made = []
    for numbers in processes.parts(lambda: [*there], 9, what="it"):
      made += numbers
      with lock:
        there.update(numbers)
    return made

  found = spread(3, work)
  assert [i for part in found for i in part] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_who_fails_owes_its_part_and_the_others_make_theirs(spread):
  there, lock = set(), threading.Lock()

  def work(i):
    for numbers in processes.parts(lambda: [*there], 9, what="the bank"):
      if i == 1:
        raise ValueError("no space")
      with lock:
        there.update(numbers)

  found = spread(3, work)
  assert there == {0, 1, 2, 6, 7, 8}
  for i in (0, 2):
    assert isinstance(found[i], RuntimeError)
    assert "process 1 stopped: no space: 3 of 9 chunks of the bank are" in str(
      found[i]
    )


def test_a_gap_that_nobody_knew_of_is_filled_in_the_next_round(spread):
  there, lock = set(), threading.Lock()

  def work(i):
    rounds = 0
    for numbers in processes.parts(lambda: [*there], 4, what="it"):
      rounds += 1
      with lock:
        there.update(n for n in numbers if rounds > 1 or n != 3)
    return rounds

  spread(2, work)
  assert there == {0, 1, 2, 3}


def test_what_is_led_runs_once_and_divides_nothing(spread):
  ran = []

  @processes.led
  def alone(x):
    ran.append((processes.index(), processes.count(), processes.share([1, 2])))
    return x

  assert spread(3, lambda i: [alone(i), alone(i)]) == [
    [0, 0],
    [None, None],
    [None, None],
  ]
  assert ran == [(0, 1, [1, 2])] * 2


def test_who_leads_and_fails_ends_the_others(spread):
  @processes.led
  def alone():
    raise ValueError("no rule")

  found = spread(2, lambda i: alone())
  assert isinstance(found[0], ValueError)
  assert "process 0 stopped: no rule" in str(found[1])


def test_a_stage_is_opened_by_process_0_and_left_by_all(spread, tmp_path):
  def work(i):
    with workdir.stage(tmp_path, "sample", config={"n": 1}) as stage:
      workdir.write_bytes(stage.folder / f"by_{i}", b"x")
      stage.record("by", i)
      before = stage.finished
    return before, workdir.require(tmp_path, "sample")["by"]

  assert spread(2, work) == [(False, 0)] * 2
  assert (tmp_path / "sample" / "by_0").exists()
  assert not (tmp_path / "sample" / "by_1").exists()
  assert workdir.require(tmp_path, "sample")["hardware"]["processes"] == 2


def test_other_inputs_of_one_process_end_all(spread, tmp_path):
  def work(i):
    inputs = {"dataset": "ab" if i else "cd"}
    with workdir.stage(tmp_path, "train", config={}, inputs=inputs):
      if i == 0:
        processes.wait("never", (1,))

  found = spread(2, work)
  assert "its input 'dataset' = 'cd', this run has 'ab'" in str(found[1])
  assert "process 1 stopped" in str(found[0])


def test_a_stage_that_is_in_use_ends_all(spread, tmp_path):
  with contextlib.ExitStack() as held:
    held.enter_context(workdir.stage(tmp_path, "sample", config={}))

    def work(i):
      with workdir.stage(tmp_path, "sample", config={}):
        pass

    found = spread(2, work)
  assert all("is in use by" in str(error) for error in found)


def test_a_pipeline_draws_in_all_processes(spread, tmp_path):
  made = []

  def make(ids):
    made.append(ids.tolist())
    return np.broadcast_to(
      ids.astype(np.uint8)[:, None, None, None], (len(ids), 2, 2, 3)
    ), ids % 2 == 1

  flagged = spread(
    2,
    lambda i: pipeline_blocks.fill(
      tmp_path, make, n=11, batch=2, progress=False
    ),
  )
  assert sorted(i for ids in made for i in ids) == [*range(11)]
  images = store.open(tmp_path / "images")
  assert (images[:][:, 0, 0, 0] == np.arange(11)).all()
  for flags in flagged:
    assert flags.tolist() == [i % 2 == 1 for i in range(11)]

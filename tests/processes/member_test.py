# SPDX-License-Identifier: Apache-2.0
"""One process as the others see it: events, ends, deaths."""

import json
import subprocess
import sys
import threading

import pytest

from diffmem.processes import member as module
from diffmem.processes.member import Member, Watch, machine


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
  monkeypatch.setattr(module, "POLL", 0.02)
  monkeypatch.setattr(module, "BEAT", 0.05)


@pytest.fixture
def pair(tmp_path):
  members = [Member(tmp_path, i, 2) for i in (0, 1)]
  for member in members:
    member.files = {m.index: m.name for m in members}
    member.start()
  yield members
  for member in members:
    member.leave()


def test_an_event_carries_its_value(pair):
  threading.Timer(0.1, lambda: pair[0].announce("open", [1, "a"])).start()
  assert pair[1].wait("open", (0,)) == {0: [1, "a"]}
  pair[1].announce("open", None)
  assert pair[0].wait("open") == {0: [1, "a"], 1: None}


def test_events_outlast_their_process(pair):
  pair[0].announce("closed")
  pair[0].leave()
  assert pair[1].wait("closed", (0,)) == {0: True}


def test_who_announces_and_leaves_between_two_looks_is_heard(pair, monkeypatch):
  ended = Member.ended

  def leave_first(self, who=None):
    if pair[0]._thread is not None:
      pair[0].announce("closed", 5)
      pair[0].leave()
    return ended(self, who)

  monkeypatch.setattr(Member, "ended", leave_first)
  assert pair[1].wait("closed", (0,)) == {0: 5}


def test_who_stops_tells_the_others_why(pair):
  pair[0].leave("the disk is full")
  with pytest.raises(RuntimeError, match="process 0 stopped: the disk is full"):
    pair[1].wait("open", (0,))
  assert pair[1].ended() == (0, "process 0 stopped: the disk is full")


def test_who_ends_without_a_word_is_named(pair):
  pair[0].leave()
  with pytest.raises(RuntimeError, match="process 0 stopped: it has done its"):
    pair[1].wait("open", lacking=lambda i: "5 of 9 are missing")


def write(folder, name, **fields):
  content = {
    "pid": 2**22 + 1,
    "host": "node7",
    "machine": "node7",
    "beat": 1,
    "ended": None,
    "events": {},
  } | fields
  (folder / name).write_text(json.dumps(content))
  return content


def test_a_killed_process_is_named_with_what_it_owes(tmp_path):
  killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
  write(tmp_path, "1.x.json", pid=killed.pid, machine=machine())
  one = Member(tmp_path, 0, 2)
  one.files = {0: one.name, 1: "1.x.json"}
  assert one.ended() is None
  killed.kill()  # and not waited for: it stays a zombie
  with pytest.raises(
    RuntimeError,
    match=rf"process 1 \(pid {killed.pid} on node7\) died: 5 are missing",
  ):
    one.wait("made", lacking=lambda i: "5 are missing")
  killed.communicate()
  assert "died" in str(one.ended())


def test_elsewhere_only_a_moving_beat_is_life(tmp_path, monkeypatch):
  monkeypatch.setattr(module, "SILENT", 0.2)
  watch, clock = Watch(), [100.0]
  monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
  content = write(tmp_path, "1.x.json")
  assert watch.look("x", content) == "unknown"
  clock[0] += 0.1
  assert watch.look("x", content) == "unknown"
  assert watch.look("x", {**content, "beat": 2}) == "alive"
  clock[0] += 0.15
  assert watch.look("x", {**content, "beat": 2}) == "alive"
  assert watch.look("x", None) == "alive"  # unreadable for a moment
  clock[0] += 0.15
  assert watch.look("x", {**content, "beat": 2}) == "dead"
  assert watch.look("x", {**content, "beat": 3}) == "alive"  # only slow


def test_a_mute_process_here_is_dead_in_the_end(tmp_path, monkeypatch):
  clock = [100.0]
  monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
  watch, own = Watch(), Member(tmp_path, 0, 1)._content
  assert watch.look("x", own) == "alive"
  clock[0] += module.SILENT + 1
  assert watch.look("x", own) == "dead"  # it stands still

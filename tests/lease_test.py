# SPDX-License-Identifier: Apache-2.0
"""Leases: one owner, refusal of a second, takeover of a dead one's."""

import json
import threading
import time

import pytest

from diffmem import lease

DEAD = {"owner": "process 7 on gone", "since": "1970", "nonce": "n", "beat": 3}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setattr(lease, "BEAT", 0.05)
  monkeypatch.setattr(lease, "EXPIRY", 0.5)
  monkeypatch.setattr(lease, "_lost", [])


def _url(folder) -> str:
  return f"file://{folder}"


def test_a_second_run_is_refused_by_the_owner_and_its_time(tmp_path):
  with lease.hold(_url(tmp_path)):
    about = json.loads((tmp_path / ".lock").read_text())
    with (
      pytest.raises(OSError, match=r"in use by process \d+ on .* since 20"),
      lease.hold(_url(tmp_path)),
    ):
      pass
    time.sleep(3 * lease.BEAT)
    later = json.loads((tmp_path / ".lock").read_text())
    assert later["beat"] > about["beat"]
    assert later | {"beat": 0} == about | {"beat": 0}
    lease.check()
  assert not (tmp_path / ".lock").exists()
  with lease.hold(_url(tmp_path)):
    pass


@pytest.mark.parametrize("content", [json.dumps(DEAD), "", "[]"])
def test_the_lease_of_a_dead_run_is_taken_over(tmp_path, content, caplog):
  (tmp_path / ".lock").write_text(content)
  start = time.monotonic()
  with lease.hold(_url(tmp_path)):
    assert time.monotonic() - start >= lease.EXPIRY
    assert "gone" not in (tmp_path / ".lock").read_text()
  assert "which died" in caplog.text


def test_a_lease_that_is_released_meanwhile_is_free(tmp_path):
  (tmp_path / ".lock").write_text("x")
  threading.Timer(0.1, (tmp_path / ".lock").unlink).start()
  start = time.monotonic()
  with lease.hold(_url(tmp_path)):
    assert time.monotonic() - start < lease.EXPIRY


def test_of_many_at_once_one_gets_a_dead_ones_lease(tmp_path):
  (tmp_path / ".lock").write_text(json.dumps(DEAD))
  got, refused, end = [], [], threading.Event()

  def run():
    try:
      with lease.hold(_url(tmp_path)):
        got.append(None)
        end.wait(5.0)
    except OSError:
      refused.append(None)

  threads = [threading.Thread(target=run) for _ in range(4)]
  for thread in threads:
    thread.start()
  while len(refused) < 3 and any(thread.is_alive() for thread in threads):
    time.sleep(0.02)
  end.set()
  for thread in threads:
    thread.join()
  assert (len(got), len(refused)) == (1, 3)


def test_a_lost_lease_stops_the_writer(tmp_path):
  with lease.hold(_url(tmp_path)):
    (tmp_path / ".lock").write_text(json.dumps(DEAD))  # as another would
    time.sleep(5 * lease.BEAT)
    with pytest.raises(OSError, match=r"lost the lease .* another run took"):
      lease.check()
  assert json.loads((tmp_path / ".lock").read_text()) == DEAD  # not removed


def test_a_lease_that_cannot_be_renewed_is_lost(tmp_path, monkeypatch):
  with lease.hold(_url(tmp_path)):

    def fail(*_):
      raise OSError("out of reach")

    monkeypatch.setattr(lease._Lease, "_swap", fail)
    time.sleep(lease.EXPIRY / 2)
    lease.check()  # not yet
    time.sleep(lease.EXPIRY)
    with pytest.raises(OSError, match=r"not be renewed \(out of reach\)"):
      lease.check()


def test_an_answer_that_was_lost_is_no_refusal(tmp_path):
  held = lease._Lease(_url(tmp_path), ".lock")
  missing = held._read().stamp.generation
  assert held._swap(missing)
  assert held._swap(missing)  # the condition fails, but it holds our content
  held.content["beat"] = 1
  assert not held._swap(missing)
  held.release()

# SPDX-License-Identifier: Apache-2.0
"""Progress away from a terminal: plain lines with a rate and the time left."""

import logging

from diffmem import progress


def test_lines_say_how_far_how_fast_and_how_long(monkeypatch, caplog):
  clock = iter(range(0, 1000, 20))
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
  with (
    caplog.at_level(logging.INFO),
    progress.Progress(100, what="sample", unit="images", done=40) as bar,
  ):
    bar.update(20, loss="0.5")
  assert caplog.messages[0].startswith("sample: 60/100 images, ")
  assert "left, loss 0.5" in caplog.messages[0]
  rate = float(caplog.messages[0].split(", ")[1].removesuffix("/s"))
  assert 0 < rate <= 1  # the 40 done before do not count


def test_nothing_is_said_when_asked_not_to(caplog):
  with (
    caplog.at_level(logging.INFO),
    progress.Progress(10, what="x", unit="y", enabled=False) as bar,
  ):
    bar.update(10)
  assert not caplog.messages


def test_durations_read_well():
  assert progress._duration(59.0) == "0m59s"
  assert progress._duration(3725.0) == "1h02m"

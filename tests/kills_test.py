# SPDX-License-Identifier: Apache-2.0
"""The way to kill programs, on one that writes files at any pace."""

import functools
import itertools
import pathlib

import pytest

from tests import kills

# Makes n files, one each `pause` seconds, and those that are missing only.
WRITER = """
import pathlib, sys, time
root, n, pause = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
root.mkdir(exist_ok=True)
for i in range(n):
  if not (root / str(i)).exists():
    time.sleep(pause)
    (root / str(i)).touch()
"""


def strike(root: pathlib.Path, times, *, n=40, pause=0.01, longest=0.1, **more):
  """Kills the writer; returns how often it was begun."""
  begun = itertools.count()

  def begin():
    next(begun)
    args = ("-S", "-c", WRITER, str(root), str(n), str(pause))
    return kills.start(args, root.parent)

  def files():
    return set(root.glob("*"))

  options = (
    dict(done=lambda: len(files()) == n, made=(root,), keeps=files) | more
  )
  kills.strike(begin, [(files, longest)] * times, **options)
  return next(begun)


def test_each_kill_strikes_once_and_nothing_is_done(tmp_path):
  assert strike(tmp_path / "a", 3, n=10**6) == 3
  assert 3 <= len(list((tmp_path / "a").iterdir())) < 10**6


def test_where_it_was_done_before_it_strikes_earlier(tmp_path):
  assert strike(tmp_path / "a", 2, pause=0.02, longest=10.0) > 2
  assert len(list((tmp_path / "a").iterdir())) < 40


def test_the_last_sight_is_repeated_until_it_is_enough(tmp_path):
  answers = iter([False, False, True])
  begun = strike(
    tmp_path / "a", 2, n=10**6, enough=functools.partial(next, answers)
  )
  assert begun == 4


def test_what_is_lost_is_told(tmp_path):
  names = iter([{"a", "b"}, {"b", "c"}])
  with pytest.raises(AssertionError, match=r"lost, or made again: \['a'\]"):
    strike(tmp_path / "a", 2, n=10**6, keeps=functools.partial(next, names))


def test_a_program_that_fails_is_no_strike(tmp_path):
  with pytest.raises(AssertionError, match="invalid literal"):
    strike(tmp_path / "a", 1, n="many")


def test_tries_are_bounded(tmp_path, monkeypatch):
  monkeypatch.setattr(kills, "TRIES", 3)
  with pytest.raises(AssertionError, match="0 of 1 kills struck, in 3 runs"):
    strike(tmp_path / "a", 1, n=1, pause=0)

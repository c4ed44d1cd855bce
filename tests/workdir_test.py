# SPDX-License-Identifier: Apache-2.0
"""Workdirs: metadata, the lock, and what is refused."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from diffmem import retry, workdir

CONFIG = {"seed": 0, "train": {"lr": 0.001, "sizes": (1, 2)}}


def _finish(root, config=CONFIG, **kwargs):
  with workdir.stage(root, "train", config=config, **kwargs) as stage:
    stage.record("weights", "abc")
  return stage


def test_a_finished_stage_says_how_it_was_made(tmp_path):
  assert not _finish(tmp_path).finished
  meta = workdir.require(tmp_path, "train")
  assert meta["config"] == {"seed": 0, "train": {"lr": 0.001, "sizes": [1, 2]}}
  assert meta["weights"] == "abc"
  assert meta["runs"] == 1
  assert meta["seconds"] >= 0
  assert {"version", "commit", "started", "hardware"} <= set(meta)
  assert _finish(tmp_path).finished
  assert workdir.require(tmp_path, "train") == meta


def test_a_stage_cut_short_is_unfinished_and_counted(tmp_path):
  with (
    pytest.raises(KeyError),
    workdir.stage(tmp_path, "train", config=CONFIG),
  ):
    raise KeyError
  with pytest.raises(FileNotFoundError, match="left unfinished; rerun"):
    workdir.require(tmp_path, "train")
  assert not _finish(tmp_path).finished
  assert workdir.require(tmp_path, "train")["runs"] == 2


def test_a_stage_that_never_ran_names_its_command(tmp_path):
  with pytest.raises(FileNotFoundError, match="run diffmem-sample"):
    workdir.require(tmp_path, "sample")


def test_another_config_is_refused_by_its_first_difference(tmp_path):
  _finish(tmp_path)
  other = {"seed": 0, "train": {"lr": 0.002, "sizes": (1, 2)}}
  with pytest.raises(
    ValueError, match=r"train\.lr = 0\.001, this run has 0\.0"
  ):
    _finish(tmp_path, other)
  with pytest.raises(ValueError, match=r"its input 'bank' = '\(absent\)'"):
    _finish(tmp_path, inputs={"bank": "x"})
  assert not _finish(tmp_path, other, replace=True).finished
  assert workdir.require(tmp_path, "train")["config"]["train"]["lr"] == 0.002


def test_two_runs_in_one_folder(tmp_path):
  program = (
    "import sys; from diffmem import workdir\n"
    "with workdir.stage(sys.argv[1], 'train', config={}):\n"
    "  print('in', flush=True); sys.stdin.read()\n"
  )
  first = subprocess.Popen(
    [sys.executable, "-c", program, str(tmp_path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert first.stdout.readline() == "in\n"
  with (
    pytest.raises(OSError, match=rf"in use by process {first.pid} on"),
    workdir.stage(tmp_path, "train", config={}),
  ):
    pass
  first.kill()
  first.communicate()
  with workdir.stage(tmp_path, "train", config={}) as stage:
    assert not stage.finished  # the lock went with the killed process


def test_places_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("x")
  with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
    _finish(tmp_path / "file")
  with pytest.raises(OSError, match="needs 1,048,576,000 MiB"):
    _finish(tmp_path, needs=2**20 * 1_048_576_000)
  with pytest.raises(OSError, match="cannot make /proc/none"):
    _finish("/proc/none")


def test_a_disk_that_fails_now_and_then(tmp_path, monkeypatch):
  errors = [errno.EIO, errno.ESTALE]
  replace = os.replace

  def fail(source, target):
    if errors:
      number = errors.pop()
      raise OSError(number, os.strerror(number))
    replace(source, target)

  monkeypatch.setattr(retry, "FIRST", 0.001)
  monkeypatch.setattr(os, "replace", fail)
  workdir.write_json(tmp_path / "a.json", {"a": 1})
  assert not errors
  errors.append(errno.ENOSPC)
  with pytest.raises(OSError, match="No space left"):
    workdir.write_json(tmp_path / "a.json", {"a": 2})
  assert not errors  # once
  errors.extend([errno.EIO] * 99)
  with pytest.raises(OSError, match=r"a\.json could not be written 6 times"):
    workdir.write_json(tmp_path / "a.json", {"a": 2})
  errors.clear()
  assert workdir.read_json(tmp_path / "a.json") == {"a": 1}


def test_json_is_whole_and_holds_no_nan(tmp_path):
  file = tmp_path / "a.json"
  workdir.write_json(file, {"a": np.int64(3), "b": np.arange(2), "c": (1.5,)})
  assert workdir.read_json(file) == {"a": 3, "b": [0, 1], "c": [1.5]}
  with pytest.raises(ValueError, match="not JSON compliant"):
    workdir.write_json(file, {"a": float("nan")})
  assert workdir.read_json(file)["a"] == 3
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
  file.write_text('{"a": ')
  with pytest.raises(ValueError, match="is not valid JSON"):
    workdir.read_json(file)


def test_a_digest_knows_content_not_order_or_type():
  assert workdir.digest({"a": 1, "b": (2,)}) == workdir.digest(
    {"b": [np.int32(2)], "a": 1}
  )
  assert workdir.digest({"a": 1}) != workdir.digest({"a": 2})
  assert json.dumps(workdir.plain({"x": np.float32(0.5)})) == '{"x": 0.5}'


def test_a_folder_of_something_else_is_refused(tmp_path):
  (tmp_path / "train").mkdir()
  workdir.write_json(tmp_path / "train" / "meta.json", {"name": "other"})
  with pytest.raises(ValueError, match="is not the record of a stage"):
    _finish(tmp_path)
  with pytest.raises(ValueError, match="is not the record of a stage"):
    workdir.require(tmp_path, "train")


def test_a_shadow_works_in_a_folder_of_its_own(tmp_path):
  def of(root, shadow):
    return workdir.of(root, {"split": {"shadow": shadow}})

  assert of(tmp_path, None) == workdir.path(tmp_path)
  assert workdir.of(tmp_path, {"path": None}) == workdir.path(tmp_path)
  own = of(tmp_path, 3)
  assert own == workdir.path(tmp_path) / "shadows" / "3"
  assert of(own, 3) == own
  assert of(own, None) == own
  with pytest.raises(ValueError, match=r"that of shadow 3.*shadow 4: give "):
    of(own, 4)


def test_so_does_a_stage_of_a_cascade(tmp_path):
  root = workdir.path(tmp_path)
  data = {"split": {"shadow": None}, "upsampler": 1}
  own = workdir.of(tmp_path, data)
  assert own == root / "upsamplers" / "1"
  assert workdir.of(own, data) == own
  assert workdir.whole(own) == workdir.whole(root) == root
  assert workdir.whole(root / "shadows" / "12") == root
  with pytest.raises(ValueError, match=r"that of upsampler 1.*upsampler 0"):
    workdir.of(own, data | {"upsampler": 0})
  with pytest.raises(ValueError, match="give one of the two"):
    workdir.of(root, {"split": {"shadow": 2}, "upsampler": 0})

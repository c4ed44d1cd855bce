# SPDX-License-Identifier: Apache-2.0
"""The runner of a study, with programs that only say that they ran."""

import json
import sys

import pytest

from diffmem import workdir
from diffmem.audit import study

ARMS = {
  "one": dict(config="a.py:seed={seed}", flags=("x.y=1",), seeds=2),
  "other": dict(config="b.py", flags=(), seeds=1),
}
# Fails where its folder is named in <runs>/fail; else writes its arguments.
SCRIPT = """
import pathlib, sys
place = pathlib.Path(sys.argv[-1].partition("=")[2])
fail = place.parent / "fail"
if fail.exists() and place.name in fail.read_text().split():
  sys.exit("nothing works")
place.mkdir(exist_ok=True)
with open(place / "ran", "a") as file:
  file.write(" ".join(sys.argv[1:-1]) + "\\n")
"""


@pytest.fixture(autouse=True)
def program(monkeypatch):
  monkeypatch.setattr(study, "PROGRAM", (sys.executable, "-c", SCRIPT))


def run_all(tmp_path, arms=ARMS, jobs=2):
  folder = workdir.path(tmp_path) / "runs"
  study._run_all(folder, study.runs(arms), jobs=jobs, progress=False)
  return tmp_path / "runs"


def test_runs_are_seed_by_seed():
  assert [run.name for run in study.runs(ARMS)] == ["one_0", "other_0", "one_1"]


def test_each_run_is_the_audit_of_its_arm(tmp_path):
  folder = run_all(tmp_path)
  expected = "--config=a.py:seed=1 --config.x.y=1\n"
  assert (folder / "one_1" / "ran").read_text() == expected
  assert (folder / "other_0" / "ran").read_text() == "--config=b.py\n"
  made = json.loads((folder / "one_1" / "command.json").read_text())
  assert made["arguments"] == expected.split()
  assert made["cpu_seconds"] > 0


def test_failures_are_named_and_the_rest_is_kept(tmp_path):
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs" / "fail").write_text("one_0")
  with pytest.raises(RuntimeError, match=r"1 of 3 runs failed.*one_0\.log"):
    run_all(tmp_path)
  folder = tmp_path / "runs"
  assert "nothing works" in (folder / "one_0.log").read_text()
  assert not (folder / "one_0").exists()
  (folder / "fail").unlink()
  run_all(tmp_path)
  for name in ("one_0", "one_1", "other_0"):
    assert len((folder / name / "ran").read_text().splitlines()) == 1


def test_a_run_of_another_command_is_refused(tmp_path):
  run_all(tmp_path)
  arms = ARMS | {"one": ARMS["one"] | {"flags": ("x.y=2",)}}
  with pytest.raises(ValueError, match=r"one_0 holds a run of .*x\.y=1"):
    run_all(tmp_path, arms)


@pytest.mark.parametrize(
  ("section", "says"),
  [
    (dict(arms=ARMS, jobs=0, stored=None), "claims.jobs=0"),
    (
      dict(arms={"a": dict(config="", flags=(), seeds=0)}, jobs=1, stored=None),
      "claims.arms.a.seeds=0",
    ),
  ],
)
def test_settings_that_cannot_be(tmp_path, section, says):
  with pytest.raises(ValueError, match=says):
    study.run(tmp_path, claims=section, progress=False)

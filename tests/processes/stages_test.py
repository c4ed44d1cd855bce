# SPDX-License-Identifier: Apache-2.0
"""Every stage says what several processes do in it."""

# Stages in which all processes work, each on its part.
SHARED = {
  "audit/stages.py",  # distances
  "data/captions.py",  # read by all, embedded by process 0
  "membership/run.py",
  "sample/generators.py",
  "sample/models.py",
  "sample/pipelines.py",
  "train/run.py",
}
# Stages that only functions marked as led open, or that no program runs.
INSIDE = {
  "distances/pairs.py",
  "extraction/side_pairs.py",
  "report/study.py",
  "sample/choosing.py",
}


def test_every_stage_is_shared_or_led(root):
  package = root / "diffmem"
  for path in package.rglob("*.py"):
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(package).as_posix()
    if "workdir.stage(" in text and name not in SHARED | INSIDE:
      assert "@processes.led\n" in text, (
        f"{name} opens a stage: mark its run with processes.led, or divide its "
        "work with processes.parts and add it to SHARED"
      )

# SPDX-License-Identifier: Apache-2.0
"""Reconstruction on the page, from its files alone."""

import csv
import io

import numpy as np
import pytest

from diffmem import workdir as folders
from diffmem.extraction import inpaint_results, inpaint_run
from diffmem.extraction.inpaint_plan import Task
from diffmem.extraction.inpaint_results import Found
from diffmem.report import results, run, verdict

REPORT = {"title": "Halves", "gallery": 48, "labels": []}


def stage(root, groups, *, paired):
  """Files of the stage: groups are {name: mean distance}, 20 targets each."""
  rng = np.random.default_rng(0)
  found = [
    Found(
      Task(i if paired else 100 * g + i, name, "main", None, 5),
      *(mean + rng.uniform(-0.02, 0.02, 4)),
      1.0,
    )
    for g, (name, mean) in enumerate(groups.items())
    for i in range(20)
  ]
  about = inpaint_results.summary(found, bootstrap=50, seed=0) | {
    "paired": paired,
    "ranked_by": "loss ratio" if paired else "loss",
    "mask": "left",
    "hidden": 32,
    "pixels": 64,
    "candidates": 128,
    "keep": 10,
    "gallery": [row for row, _ in inpaint_run.gallery(found, 4)],
  }
  folder = folders.path(root) / "inpaint"
  folder.mkdir(parents=True)
  folders.write_json(folder / "results.json", about)
  meta = {"status": "finished", "config": {"inpaint": {}}, "seconds": 3.0}
  folders.write_json(folder / "meta.json", meta)
  text = io.StringIO()
  writer = csv.DictWriter(text, ["target_id", "group", "top"])
  writer.writeheader()
  for f in found:
    writer.writerow(
      {"target_id": f.task.target, "group": f.task.group, "top": f.top}
    )
  (folder / "targets.csv").write_text(text.getvalue())
  count = len(about["gallery"])
  images = rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
  names = ("truth", "visible", "seen", "not_seen")
  np.savez(folder / "gallery.npz", **dict.fromkeys(names, images))
  return about


def page(root):
  run.run(root, report=REPORT)
  return (folders.path(root) / "report" / "index.html").read_text()


def test_pairs(tmp_path):
  about = stage(tmp_path, {"seen": 0.08, "not_seen": 0.2}, paired=True)
  text = page(tmp_path)
  assert "Hidden parts, filled in" in text
  assert "50% of the pixels" in text
  assert text.count('class="pair"') == len(about["gallery"]) == 4
  assert "not seen (the same images)" in text
  assert "Wilcoxon signed-rank" in text
  assert "has not run" not in text  # nothing else was asked for
  lead, _ = verdict.verdict(results.read(tmp_path))
  assert "20 of 20 are nearer under the model that saw them" in lead
  assert "nearer than chance explains (probability below" in lead
  written = folders.read_json(tmp_path / "report" / "results.json")
  assert written["inpaint"] == folders.plain(about)


def test_groups(tmp_path):
  groups = {"seen_once": 0.2, "planted": 0.05, "held_out": 0.2}
  stage(tmp_path, groups, paired=False)
  text = page(tmp_path)
  assert "seen several times" in text
  assert text.count('class="pair"') == 12
  first, rest = verdict.verdict(results.read(tmp_path))
  assert "no nearer than chance explains" in first
  assert "again and again" in rest[0]
  assert "nearer than chance explains (probability below" in rest[0]


@pytest.mark.parametrize("damage", ["results.json", "gallery.npz"])
def test_damaged_files_are_named(tmp_path, damage):
  stage(tmp_path, {"seen": 0.08, "not_seen": 0.2}, paired=True)
  (tmp_path / "inpaint" / damage).write_text("no")
  with pytest.raises(ValueError, match=damage):
    page(tmp_path)


def test_shadow_models_are_told_without_a_membership_stage(tmp_path):
  stage(tmp_path, {"seen": 0.08, "not_seen": 0.2}, paired=True)
  for i in range(2):
    folder = tmp_path / "shadows" / str(i) / "train"
    folder.mkdir(parents=True)
    config = {
      "data": {"split": {"shadow": i}},
      "models": {"name": "mlp"},
      "train": {"steps": 4000, "batch": 64, "lr": 0.002},
    }
    meta = {"status": "finished", "config": config, "seconds": 2.5}
    folders.write_json(folder / "meta.json", meta)
  text = page(tmp_path)
  assert "shadow models, trained alike" in text
  assert results.read(tmp_path).metas["shadows"]["seconds"] == 5.0

# SPDX-License-Identifier: Apache-2.0
"""Every notebook runs whole, cell by cell, in a fresh Python."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

FOLDER = pathlib.Path(__file__).parent.parent.parent / "colabs"
SECONDS = 300  # a notebook's limit on a CPU
RUN = """
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
  cells = json.load(file)["cells"]
names = {"__name__": "__main__"}
for cell in cells:
  if cell["cell_type"] == "code":
    code = compile("".join(cell["source"]), "cell " + cell["id"], "exec")
    exec(code, names)
import matplotlib.pyplot
print("figures:", len(matplotlib.pyplot.get_fignums()))
"""


def execute(notebook, folder, root):
  return subprocess.run(
    [sys.executable, "-c", RUN, str(notebook)],
    cwd=folder,
    env={**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(root)},
    capture_output=True,
    text=True,
    timeout=SECONDS,
  )


@pytest.mark.parametrize(
  "notebook", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem
)
def test_a_notebook_runs_whole(notebook, root, tmp_path):
  done = execute(notebook, tmp_path, root)
  assert done.returncode == 0, done.stderr[-4000:]
  figures = int(done.stdout.rpartition("figures:")[2])
  assert figures > 0
  assert not list(tmp_path.iterdir())  # it leaves nothing behind


def test_a_cell_that_fails_is_named(root, tmp_path):
  cell = {"cell_type": "code", "id": "broken", "source": ["x = 1\n", "y"]}
  notebook = tmp_path / "broken.ipynb"
  notebook.write_text(json.dumps({"cells": [cell]}))
  done = execute(notebook, tmp_path, root)
  assert done.returncode == 1
  assert 'File "cell broken", line 2' in done.stderr
  assert "name 'y' is not defined" in done.stderr

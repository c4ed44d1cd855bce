# SPDX-License-Identifier: Apache-2.0
"""Quality on the page: named by its features, missing parts said to be so."""

import copy

import pytest

from diffmem.report import quality, results, run

PAIR = {
  "frechet": [0.25, 0.2, 0.3],
  "precision": [0.9, 0.8, 1.0],
  "recall": [0.7, 0.6, 0.8],
  "density": [1.1, 0.9, 1.3],
  "coverage": [0.95, 0.9, 1.0],
  "se": {"frechet": 0.025},
  "bias": {"frechet": 0.05},
}
FOUND = {
  "images": 599,
  "available": {"members": 599, "held_out": 599, "generations": 4096},
  "features": {"name": "classifier", "dimensions": 128, "info": {}},
  "neighbours": {"precision": 3, "coverage": 5},
  "groups": 20,
  "to_members": PAIR,
  "to_held_out": PAIR | {"frechet": [12.34, 11.0, 13.0]},
  "floor": PAIR | {"frechet": [0.031, 0.02, 0.04]},
  "loss": {
    "times": 2,
    "draws": 4,
    "images": {"members": 599, "held_out": 598},
    "members": [0.1, 0.09, 0.11],
    "held_out": [0.2, 0.19, 0.21],
    "gap": [0.1, 0.08, 0.12],
    "by_time": [
      {"t": t, "members": [v, v, v], "held_out": [v, v, v], "gap": [0, 0, 0]}
      for t, v in ((250, 0.3), (750, 0.0123))
    ],
  },
}
REPORT = {"title": "A title", "gallery": 4, "labels": ()}


def page(workdir, found):
  workdir.write("quality/results.json", found)
  run.run(workdir.root, report=REPORT, progress=False)
  return (workdir.root / "report" / "index.html").read_text()


def test_the_section(workdir):
  text = page(workdir.all(), FOUND)
  assert "Fréchet distance" in text
  assert "FID" not in text  # these are other features
  assert "12.3" in text
  assert "0.0123" in text
  assert "0.0500, 0.0500, 0.0500" in text or "0.05, 0.05, 0.05" in text
  assert "598 held-out images" in text
  assert "not measured" not in text


def test_inception_alone_is_called_fid():
  found = copy.deepcopy(FOUND)
  assert quality.frechet(found) == "Fréchet distance"
  found["features"]["name"] = "inception"
  assert quality.frechet(found) == "FID"


def test_what_is_missing_is_said(workdir):
  few = PAIR | {"frechet": None, "frechet_missing": "9 images for vectors of"}
  found = FOUND | {"to_members": few, "to_held_out": None, "floor": None}
  found["loss"] = None
  workdir.all().write("quality/results.json", found)
  told = quality.context(results.read(workdir.root))["quality"]
  assert [row["cells"][0] for row in told["rows"]] == [("not measured", "")]
  assert told["missing"] == "9 images for vectors of"
  assert told["loss"] is None


@pytest.mark.parametrize(
  ("x", "said"),
  [(0.01234, "0.0123"), (0.5, "0.500"), (12.34, "12.3"), (-0.5, "−0.500")],
)
def test_numbers(x, said):
  assert quality.number(x) == said

# SPDX-License-Identifier: Apache-2.0
"""The report stage: what it writes, from any part of a workdir."""

import base64
import csv
import html.parser
import importlib.util
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffmem.report import figures, images, page, results, run

REPORT = {"title": "Digits", "gallery": 48, "labels": []}
VOID = {"meta", "link", "img", "br", "use", "path", "rect"}


class Page(html.parser.HTMLParser):
  """Checks that tags close; keeps attributes and text."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.text, self.wrong = [], [], "", []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    if tag in VOID:
      return
    if not self.open or self.open.pop() != tag:
      self.wrong.append((tag, self.getpos()))

  def handle_data(self, data):
    if self.open and self.open[-1] != "style":
      self.text += data

  def all(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]


def made(workdir, **report):
  run.run(workdir.root, report=REPORT | report)
  folder = workdir.root / "report"
  shown = Page((folder / "index.html").read_text())
  assert not shown.wrong
  assert not shown.open
  return shown, json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def full(whole):
  """The page with everything on it, and its results.json."""
  return made(whole)


def test_outside_contract(whole, full):
  _, written = full
  assert written["extraction"]["generated"] == 4096
  assert written["extraction"]["unique"] == 13
  assert written["extraction"]["planted"]["20"] == [6, 6]
  assert written["extraction"]["held_out"]["unique"] == 1
  assert written["extraction"]["rule"]["delta"] == 0.055
  assert written["membership"]["loss"]["auc"] == [0.612, 0.581, 0.644]
  assert written["membership"]["loss"]["tpr@0.001"] is None
  assert written["stages"]["train"]["seconds"] == 97.1
  assert written["config"]["train"]["steps"] == 4000
  assert written["config"]["report"] == REPORT
  assert written["version"]
  folder = whole.root / "report"
  for name, stage in (("matches", "extraction"), ("scores", "membership")):
    copied = (folder / f"{name}.csv").read_bytes()
    assert copied == (whole.root / stage / f"{name}.csv").read_bytes()
  assert json.loads((folder / "meta.json").read_text())["status"] == "finished"


def test_page_is_self_contained(whole, full):
  shown, _ = full
  text = (whole.root / "report" / "index.html").read_text()
  assert not shown.all("script")
  policy = next(m for m in shown.all("meta") if "http-equiv" in m)
  assert policy["content"].startswith("default-src 'none'; img-src data:;")
  for _, attributes in shown.tags:
    for name, value in attributes.items():
      assert not name.startswith("on")
      if name in ("src", "href", "xlink:href"):
        assert value.startswith(("data:", "#"))
  outside = re.findall(r"(?:url\(|@import|src=|href=)[\"']?https?:", text)
  assert not outside


def test_page_says_it_all(full):
  shown, _ = full
  for words in (
    "13 of 599 training images were reproduced in 4,096 generated images. The "
    "same search for 599 held-out images, which the model never saw, found 1.",
    "not resolvable with 599 non-members",
    "0.612",
    "planted 50 times",
    "training 120",
    "False matches",
    "Showing 12 of 48",
    "exploratory",
    "1 min 37 s",
    "2 min 18 s",  # all stages together
    "diffmem-audit --config=",
    "0123456789",
    "Config, as resolved",
  ):
    assert words in shown.text, words


def test_page_is_accessible(full):
  shown, _ = full
  pictures = shown.all("img")
  assert len(pictures) == 2 * (13 + 12 + 1) + 4
  assert all(p["alt"] and int(p["width"]) and p["height"] for p in pictures)
  drawings = shown.all("svg")
  assert len(drawings) == 6
  assert all(d["role"] == "img" and d["aria-label"] for d in drawings)
  assert all(th.get("scope") for th in shown.all("th"))
  ids = [a["id"] for _, a in shown.tags if "id" in a]
  assert len(ids) == len(set(ids))
  links = [a["href"][1:] for a in shown.all("a")]
  assert set(links) <= set(ids)


def test_figures_follow_the_theme(full, whole):
  text = (whole.root / "report" / "index.html").read_text()
  for drawing in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
    assert "var(--ink)" in drawing or "var(--muted)" in drawing
    assert not re.search(r"#[0-9a-f]{6}", drawing)
    assert "DejaVu" not in drawing
    for reference in re.findall(r"url\(#([^)]+)\)", drawing):
      assert f'id="{reference}"' in drawing


def test_config_file_gives_the_same_config(whole, full):
  del full
  file = whole.root / "report" / "config.py"
  spec = importlib.util.spec_from_file_location("again", file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config().to_dict()
  assert config["train"]["steps"] == 4000
  assert set(config) == {*results.SECTIONS, "report"}
  with pytest.raises(ValueError, match="no arguments"):
    module.get_config("debug")


def test_made_twice(workdir):
  workdir.membership()
  made(workdir)
  workdir.extraction(matches=2)
  shown, written = made(workdir, title="Again")
  assert "2 of 599" in shown.text
  assert written["config"]["report"]["title"] == "Again"


TAGS = """
  html head meta title link style body header h1 h2 h3 p div ul li b span nav a
  main section table thead tbody tr th td i figure figcaption img em dl dt dd
  details summary pre code footer svg g defs path use text clippath rect tspan
"""
HOSTILE = (
  "$\\frac{1}{0}$ and $ alone",
  "<script>alert(1)</script>",
  '" onerror="alert(1)',
  'data:image/png;base64,AAAA" onload="alert(1)"><svg onload=alert(1)>',
  "'; --x: url(https://example.com) ",
  "{{ 7 * 7 }}{% raw %}",
  "</style></title><img src=x onerror=alert(1)>",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_untrusted_text_stays_text(workdir, text):
  workdir.extraction(
    matches=1,
    near=1,
    false=1,
    texts=dict.fromkeys(("label", "name", "caption", "training_id"), text),
  )
  workdir.membership(name=text.replace("/", ""))
  config = {"train": {"steps": 1, text: text}}
  meta = {"status": "finished", "config": config, "seconds": 1.0}
  workdir.write("train/meta.json", meta | {"version": text, "commit": text})
  workdir.write("data/meta.json", {"dataset": {"source": text}})
  shown, _ = made(workdir, title=text)
  assert text in shown.text
  assert not shown.all("script")
  for tag, attributes in shown.tags:
    assert not any(name.startswith("on") for name in attributes), tag
    if tag in ("img", "image"):
      assert attributes["src"].startswith("data:image/png;base64,iVBOR")
  assert {tag for tag, _ in shown.tags} <= set(TAGS.split())


def test_no_matches(workdir):
  shown, _ = made(workdir.all(matches=0, false=0))
  assert "None of 599 training images was reproduced" in shown.text
  assert "No generated image counts as a copy" in shown.text
  assert "no generated image counts as a copy of any" in shown.text


def test_one_match(workdir):
  shown, _ = made(workdir.all(matches=1, false=0))
  assert "1 of 599 training images was reproduced" in shown.text
  assert "no evidence of memorization" in shown.text


def test_thousands_of_matches_are_capped(workdir):
  workdir.extraction(matches=3000, searched=5000, held_out=5000)
  shown, _ = made(workdir, gallery=20)
  assert "Showing 20 of 3,000, nearest first. All are in matches.csv." in (
    " ".join(shown.text.split())
  )
  assert len(shown.all("img")) == 2 * (20 + 12 + 1)
  lines = (workdir.root / "report" / "matches.csv").read_text().splitlines()
  assert len(lines) == 3001


def test_a_bank_from_outside_without_control(workdir):
  shown, written = made(workdir.extraction(held_out=0, false=0))
  assert "This number has no control" in shown.text
  assert "This folder holds no training" in shown.text
  assert "The membership stage has not run" in shown.text
  assert written["membership"] is None
  assert not (workdir.root / "report" / "config.py").exists()
  scores = (workdir.root / "report" / "scores.csv").read_text()
  assert scores == "id,member,copies\n"


def test_stages_of_a_cascade_are_told(workdir):
  workdir.train().sample()
  file = workdir.root / "sample" / "meta.json"
  stage = {
    "folder": "upsamplers/0",
    "weights": "ab" * 32,
    "shape": [16, 16, 1],
    "parameters": 719777,
    "seconds": 678.4,
    "same_split": False,
  }
  kept = json.loads(file.read_text()) | {"upsamplers": [stage]}
  file.write_text(json.dumps(kept))
  shown, _ = made(workdir)
  assert "enlarged to 16 x 16 by" in shown.text
  told = (
    "719,777 parameters, trained in 678 s, weights abababababab, on another"
  )
  assert told in shown.text


def test_membership_alone(workdir):
  shown, written = made(workdir.membership(auc=(0.5, 0.47, 0.53)))
  assert "cannot tell training images from others" in shown.text
  assert "The extraction stage has not run" in shown.text
  assert written["extraction"] is None
  matches = io.StringIO((workdir.root / "report" / "matches.csv").read_text())
  assert list(csv.DictReader(matches)) == []


def test_files_without_meta_count_as_they_are(workdir):
  workdir.extraction()
  (workdir.root / "extraction" / "meta.json").unlink()
  (workdir.root / "extraction" / "gallery.npz").unlink()
  shown, written = made(workdir)
  assert written["extraction"]["unique"] == 13
  assert "Showing 0 of 13: the pictures are not in this folder" in shown.text
  assert "No stage recorded how it was run" in shown.text


def test_unfinished_results_are_not_shown(workdir):
  shown, written = made(workdir.train().extraction(finished=False))
  assert written["extraction"] is None
  assert "began but has not finished" in shown.text


def test_nan_becomes_null(workdir):
  workdir.membership()
  text = json.dumps({"loss": {"auc": [0.5, 0.4, 0.6], "x": float("nan")}})
  workdir.write("membership/results.json", text)
  _, written = made(workdir)
  assert written["membership"]["loss"]["x"] is None
  raw = (workdir.root / "report" / "results.json").read_text()
  assert "NaN" not in raw


def test_refusals(workdir):
  with pytest.raises(FileNotFoundError, match="holds no results to report"):
    run.run(workdir.root, report=REPORT)
  workdir.extraction()
  with pytest.raises(ValueError, match=r"report\.gallery = -1"):
    run.run(workdir.root, report=REPORT | {"gallery": -1})
  workdir.write("extraction/gallery.npz", b"PK damaged")
  with pytest.raises(ValueError, match=r"gallery\.npz cannot be read"):
    run.run(workdir.root, report=REPORT)


@pytest.mark.parametrize(
  ("shape", "size", "pixelated"),
  [
    ((8, 8, 1), (112, 112), True),
    ((28, 28, 1), (112, 112), True),
    ((32, 32, 3), (128, 128), True),
    ((64, 64, 3), (128, 128), True),
    ((64, 48, 3), (96, 128), True),
    ((512, 256, 3), (78, 156), False),
  ],
)
def test_pictures_are_enlarged_by_whole_numbers(shape, size, pixelated):
  image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
  shown = images.from_array(image)
  assert (shown.width, shown.height) == size
  assert shown.pixelated == pixelated


def test_pictures_keep_their_pixels():
  image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
  packed = base64.b64decode(images.from_array(image).uri.split(",")[1])
  np.testing.assert_array_equal(Image.open(io.BytesIO(packed)), image)


def test_figures_of_nothing_are_absent():
  assert figures.yield_curve({}) is None
  assert figures.histogram({"histogram": {"edges": []}}) is None
  assert figures.training([{"step": 1, "loss": None}]) is None


def test_figures_are_the_same_each_time(workdir):
  found = results.read(workdir.extraction().root).extraction
  assert figures.histogram(found) == figures.histogram(found)


def test_lists_of_the_config_stay_on_one_line():
  text = page._json({"planted": [[50, 4], [2, 4]], "names": ["a, [b", "c"]})
  assert "[50, 4]" in text
  assert json.loads(text) == {
    "planted": [[50, 4], [2, 4]],
    "names": ["a, [b", "c"],
  }


def test_no_jax():
  code = "import sys, diffmem.report.run as r; sys.exit('jax' in sys.modules)"
  assert (
    subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
  )

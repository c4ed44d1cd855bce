# SPDX-License-Identifier: Apache-2.0
"""The page tells what planted captions say, and the twin beside it."""

import json

from diffmem.report import prompts_captions, run

REPORT = {"title": "A cascade", "gallery": 4, "labels": ()}


def captions(flagged, planted=True):
  """Results of 8 planted, 4 outlying and 4 ordinary prompts."""
  count = len(flagged)
  return {
    "tested": 16,
    "captions": 16,
    "images": [5.0, 6.0, 7.0],
    "planted": {
      "flagged": [7, 8, 0.47, 0.997],
      "ordinary_flagged": [count - 7, 8, 0.0, 0.5],
      "precision": [7, count, 0.5, 1.0],
      "precision_at_recall": {"0.5": 1.0, "0.8": 0.875, "1": None},
      "curve": {
        "rank": list(range(1, count + 1)),
        "precision": [1.0] * count,
        "recall": [i / 8 for i in range(1, count + 1)],
      },
      "auc": [0.98, 0.9, 1.0],
    }
    if planted
    else None,
    "by_copies": {"20": [7, 8], "1": [1, 8]} if planted else {"1": [1, 16]},
    "found": {"repeated": 7, "once": 0, "collapsed": 1}
    if planted
    else {"repeated": 0, "once": 0, "collapsed": 1},
    "kinds": {
      "duplicated": kind(7 if planted else 0, 8),
      "outliers": kind(1, 4),
      "ordinary": kind(0, 4),
    },
  }


def kind(flagged, prompts):
  share = [flagged, prompts, 0.1, 0.9]
  return {
    "prompts": prompts,
    "flagged": share,
    "correct": share,
    "extractable": None,
  }


def results(known, flagged):
  return {
    "prompts": 16,
    "generated": 1024,
    "ungrouped": 0,
    "per_prompt": [64, 64, 64],
    "flat": 0,
    "patch": None,
    "minimum": 10,
    "edge": {"value": 0.03, "method": "ordinary", "interval": [0.02, 0.04]},
    "flagged": flagged,
    "tested": 16,
    "too_few": 0,
    "undecided": 0,
    "control": {},
    "histogram": {},
    "with_training": None,
    "captions": known,
  }


def write(root, known, flagged, table=None):
  (root / "prompts").mkdir(parents=True)
  meta = {"status": "finished", "config": {}, "inputs": {}, "seconds": 1.0}
  (root / "prompts" / "meta.json").write_text(json.dumps(meta))
  text = json.dumps(results(known, flagged))
  (root / "prompts" / "results.json").write_text(text)
  (root / "choose").mkdir()
  chosen = meta | {"config": {"choose": {"table": table}}}
  (root / "choose" / "meta.json").write_text(json.dumps(chosen))


def test_what_was_planted_is_told_in_words_and_tables(tmp_path):
  write(tmp_path / "run", captions(range(8)), 8)
  run.run(tmp_path / "run", report=REPORT)
  page = (tmp_path / "run" / "report" / "index.html").read_text()
  assert "8 prompts had a training image planted: 7 of these were" in page
  assert "and 1 of the 8 others" in page
  assert "four fifths of the planted prompts, 87.5% were planted" in page
  assert "1 flagged prompt repeats an image" in page
  assert (
    '<th scope="row" class="num">20</th><td class="num">7 of 8</td>' in page
  )
  assert "of the most duplicated images" in page
  assert "7 of 8 (10% to 90%)" in page
  assert "not searched" in page
  assert "In the run whose prompts these are" not in page
  assert "of planted prompts over 8 flagged ones" in page


def test_the_twin_shows_both_runs(tmp_path):
  write(tmp_path / "run", captions(range(8)), 8)
  table = str(tmp_path / "run" / "choose" / "prompts_chosen.csv")
  write(tmp_path / "twin", captions(range(1), planted=False), 1, table)
  run.run(tmp_path / "twin", report=REPORT)
  page = (tmp_path / "twin" / "report" / "index.html").read_text()
  assert "In the run whose prompts these are" in page
  assert "had 7 of 8 planted prompts flagged; here 0 of the 8 prompts" in page
  row = '20</th><td class="num"></td><td class="num">7 of 8</td>'
  assert row in page


def test_without_truth_nothing_is_said():
  assert prompts_captions.sentences(None, None) == []
  assert prompts_captions.rows(None, None) == []
  assert prompts_captions.by_copies(None, None) == []
  assert prompts_captions.cliques(None) == []
  assert prompts_captions.curve(None) is None

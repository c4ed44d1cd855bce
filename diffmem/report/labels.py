# SPDX-License-Identifier: Apache-2.0
"""Marks that people made on a contact sheet, read back and compared.

  {"diffmem_labels": 1, "sheet": DIGEST, "rater": NAME,
   "labels": {"matches:3": "copy", "near_misses:0": "no"}}

Of each kind of card the share marked as copies is reported with its exact
interval, for each person and for the cards on which most persons agree: of
matches and prompts it is the precision by hand, of near misses what the rule
misses, of false matches what people take for copies though they cannot be.
Agreement is Cohen's kappa (1960) of each two persons over the cards that both
marked, "unsure" a mark like the others.
"""

import collections
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

from sklearn import metrics

from diffmem import workdir
from diffmem.report import words

MARKS = ("copy", "no", "unsure")
LARGEST = 2**24  # bytes of a file of marks


def read(path: str | os.PathLike, sheet: str, known: Sequence[str]) -> dict:
  """A person's marks: {"rater": name, "labels": {card: mark}}.

  Args:
    path: the downloaded file.
    sheet: digest of the sheet that it should be of.
    known: the names of its cards.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no file of marks, or of another sheet.
  """
  file = workdir.path(path)
  if not file.exists():
    raise FileNotFoundError(f"report.labels: there is no file {file}")
  content = file.read_bytes()
  try:
    if len(content) > LARGEST:
      raise ValueError(f"is over {LARGEST} bytes")
    found = json.loads(content)
    if not isinstance(found, dict) or found.get("diffmem_labels") != 1:
      raise ValueError("does not say diffmem_labels")
    labels, rater = found["labels"], found["rater"]
    if not isinstance(labels, dict) or not isinstance(rater, str):
      raise ValueError("has no labels by name, or no rater")
  except (ValueError, KeyError, RecursionError) as e:
    raise ValueError(
      f"{file} is no file of marks ({e}): give what a contact sheet "
      "(report/sheets.html) downloads"
    ) from e
  if found.get("sheet") != sheet:
    raise ValueError(
      f"{file} was marked on another sheet: mark report/sheets.html of this "
      "folder, or give it to the report of its own"
    )
  for name, mark in labels.items():
    if name not in known or mark not in MARKS:
      raise ValueError(
        f"{file}: {name!r} is marked {mark!r}, expected a card of the sheet "
        f"and one of {', '.join(MARKS)}"
      )
  return {"rater": rater, "labels": labels}


def compare(marked: Sequence[dict]) -> dict[str, Any]:
  """What people say; `marked` are the results of `read`.

  Raises ValueError where two files are by one person.
  """
  raters = [found["rater"] for found in marked]
  again = [name for name, n in collections.Counter(raters).items() if n > 1]
  if again:
    raise ValueError(
      f"report.labels: two files are by the rater {again[0]!r}: give each "
      "person's marks once, under their own name"
    )
  most = _most([found["labels"] for found in marked])
  kinds = sorted({name.partition(":")[0] for name in most})
  return {
    "raters": raters,
    "cards": {
      found["rater"]: dict(collections.Counter(found["labels"].values()))
      for found in marked
    },
    "by_hand": {
      kind: {
        "most": _share(most, kind),
        "each": {f["rater"]: _share(f["labels"], kind) for f in marked},
      }
      for kind in kinds
    },
    "agreement": [
      _agreement(a, b) for a, b in itertools.combinations(marked, 2)
    ],
  }


def _most(marks: Sequence[dict[str, str]]) -> dict[str, str]:
  """The mark of more than half of those who marked a card; else unsure."""
  cards: dict[str, list[str]] = {}
  for labels in marks:
    for name, mark in labels.items():
      cards.setdefault(name, []).append(mark)
  found = {}
  for name, given in cards.items():
    mark, count = collections.Counter(given).most_common(1)[0]
    found[name] = mark if 2 * count > len(given) else "unsure"
  return found


def _share(labels: dict[str, str], kind: str) -> dict[str, Any]:
  """Copies among the cards of a kind that somebody was sure of."""
  count = collections.Counter(
    mark for name, mark in labels.items() if name.startswith(f"{kind}:")
  )
  sure = count["copy"] + count["no"]
  share = None
  if sure:
    ends = words.exact_interval(count["copy"], sure) or ()
    share = [count["copy"] / sure, *ends]
  return {**{mark: count[mark] for mark in MARKS}, "share": share}


def _agreement(a: dict, b: dict) -> dict[str, Any]:
  """Of two persons: cards that both marked, the share alike, kappa."""
  both = sorted(set(a["labels"]) & set(b["labels"]))
  one = [a["labels"][name] for name in both]
  two = [b["labels"][name] for name in both]
  kappa = None
  if len({*one, *two}) > 1:  # else there is nothing to agree about by chance
    kappa = float(metrics.cohen_kappa_score(one, two))
  return {
    "raters": [a["rater"], b["rater"]],
    "cards": len(both),
    "alike": sum(x == y for x, y in zip(one, two, strict=True)),
    "kappa": kappa,
  }

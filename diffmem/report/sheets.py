# SPDX-License-Identifier: Apache-2.0
"""Contact sheets for people: what the rules found, to be judged by eye.

sheets.html shows pairs of images, and prompts with their cliques, one card
each. A person marks every card as a copy, no copy, or unsure, and downloads
the marks as a JSON file (`labels` reads it). So that nobody is led, matches,
near misses and false matches are mixed in a random order that says nothing of
the rule's verdict; a card's name says which row of which table it is:

  matches:3  near_misses:0  false_matches:1  second:2  prompts:0

The page may run its one script, of which it states the hash, and nothing else.
"""

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2
import numpy as np

import diffmem
from diffmem import workdir
from diffmem.report import images
from diffmem.report.results import Results

PAIRS = ("matches", "near_misses", "false_matches", "second", "second_false")
SEED = 0  # of the order; everybody sees the same


def items(results: Results, limit: int) -> list[str]:
  """Names of all cards, in their order on the sheet."""
  names = [
    f"{kind}:{i}"
    for kind in PAIRS
    if (pairs := results.pairs.get(kind)) and pairs.generations is not None
    for i in range(min(limit, len(pairs.generations)))
  ]
  order = np.random.default_rng(SEED).permutation(len(names))
  prompts = len(results.prompt_pictures.get("medoids", ()))
  prompts = min(limit, prompts, len(results.ranking))
  return [names[i] for i in order] + [f"prompts:{i}" for i in range(prompts)]


def digest(results: Results, limit: int) -> str:
  """Of what the sheet shows: marks of another sheet are refused by it."""
  shown = []
  for name in items(results, limit):
    kind, _, i = name.partition(":")
    rows = results.ranking if kind == "prompts" else results.pairs[kind].rows
    keys = ("training_id", "generation_id", "prompt_id")
    shown.append([name, [rows[int(i)].get(key) for key in keys]])
  return workdir.digest(shown)


def render(results: Results, *, title: str, gallery: int) -> str | None:
  """The sheet as HTML; None where there is nothing to judge."""
  names = items(results, gallery)
  if not names:
    return None
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("diffmem.report", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  folder = resources.files("diffmem.report") / "templates"
  script = (folder / "sheets.js").read_text(encoding="utf-8")
  hashed = hashlib.sha256(script.encode()).digest()
  return environment.get_template("sheets.html.j2").render(
    title=title,
    cards=[_card(results, name) for name in names],
    digest=digest(results, gallery),
    script=script,
    hash=base64.b64encode(hashed).decode(),
    version=diffmem.__version__,
  )


def _card(results: Results, name: str) -> dict[str, Any]:
  """Pictures and no verdict."""
  kind, _, number = name.partition(":")
  i = int(number)
  if kind != "prompts":
    pairs = results.pairs[kind]
    assert pairs.generations is not None
    assert pairs.references is not None
    return {
      "name": name,
      "shots": [
        ("generated", images.from_array(pairs.generations[i])),
        ("real", images.from_array(pairs.references[i])),
      ],
      "text": "",
    }
  pictures = results.prompt_pictures
  shots = [("generated", images.from_array(pictures["medoids"][i]))]
  shots += [
    ("generated", images.from_array(picture))
    for picture, known in zip(
      pictures["members"][i], pictures["member_ids"][i], strict=True
    )
    if known >= 0
  ][:3]
  if "training" in pictures and i < len(pictures["training"]):
    shots.append(("real", images.from_array(pictures["training"][i])))
  return {"name": name, "shots": shots, "text": results.ranking[i]["prompt"]}

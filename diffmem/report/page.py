# SPDX-License-Identifier: Apache-2.0
"""Results -> one self-contained HTML page.

Everything that comes from data or files (captions, names, the title, the
config) is untrusted text: templates escape all of it, pictures are encoded
again from pixels, and the page forbids itself scripts and the network.
"""

import datetime
import json
import pprint
import re
from typing import Any

import jinja2

import diffmem
from diffmem.report import (
  defences,
  detectors,
  figures,
  given,
  images,
  inpaint,
  measures,
  prompts,
  prompts_captions,
  quality,
  side,
  tables,
  verdict,
  words,
)
from diffmem.report import membership as members
from diffmem.report.results import Pairs, Results

PREVIEWS = 6
ASIDE = 12  # near misses, false matches
_GALLERIES = (
  "matches",
  "near_misses",
  "false_matches",
  "second",
  "second_false",
)


def render(
  results: Results,
  *,
  title: str,
  gallery: int,
  where: str = "",
  by_hand: dict | None = None,
  sheet: bool = False,
) -> str:
  """The page as text.

  Args:
    results: what the stages left.
    title: the heading.
    gallery: at most so many pairs of matches, and of the near misses and
      false matches no more than that, nor than ASIDE.
    where: the workdir, as the commands on the page should name it.
    by_hand: what people's marks say, if there are any.
    sheet: whether there is a contact sheet beside the page.
  """
  if gallery < 0:
    raise ValueError(f"report.gallery = {gallery}, expected 0 or more")
  lead, further = verdict.verdict(results)
  found, membership = results.extraction, results.membership
  today = datetime.date.today()
  context: dict[str, Any] = {
    "title": title,
    "where": where,
    "lead": lead,
    "further": further,
    "tiles": tables.tiles(results),
    "headline": tables.headline(results),
    "found": found,
    "membership": membership,
    "unfinished": results.unfinished,
    "stages": tables.stages(results),
    "total": tables.total_seconds(results),
    "data": _data(results),
    "model": _model(results),
    "config": results.config,
    "config_json": _json(results.config),
    "version": diffmem.__version__,
    "date": f"{today.day} {today:%B %Y}",
    "complete": results.complete,
    "words": words,
    "by_hand": tables.by_hand(by_hand, results) if by_hand else None,
    "agreement": by_hand["agreement"] if by_hand else (),
    "sheet": sheet,
    "training_curve": figures.training(results.metrics),
    "previews": _previews(results),
  }
  if found is not None:
    context |= {
      "planted": tables.planted(found),
      "yield_curve": figures.yield_curve(found),
      "histogram": figures.histogram(found),
    }
    for name in _GALLERIES:
      whole = name in ("matches", "second")
      limit = gallery if whole else min(gallery, ASIDE)
      pairs = results.pairs.get(name, Pairs([]))
      context[name] = _gallery(pairs, limit)
  context |= _outside(results, gallery) | _side(results, gallery)
  context |= inpaint.context(results) | measures.context(results)
  context |= defences.context(results)
  context |= quality.context(results)
  context["side_alone"] |= results.aside
  if membership is not None:
    context |= members.context(results)
    asked = results.membership_aside.get("_prompts")
    context["detectors"] = detectors.context(asked)
  return environment().get_template("page.html.j2").render(context)


def _outside(results: Results, gallery: int) -> dict[str, Any]:
  """What is told of images from outside, and of prompts."""
  context: dict[str, Any] = {
    "outside": results.outside,
    "given": given.rows(results),
    "left_out": given.left_out(results),
    "prompts": results.prompts,
  }
  if results.prompts is not None:
    context |= {
      "prompt_sentences": prompts.sentences(results.prompts),
      "prompt_numbers": prompts.numbers(results.prompts),
      "prompt_eidetic": prompts.eidetic(results.prompts),
      "prompt_gallery": prompts.gallery(results, gallery),
      "prompt_curve": prompts.curve(results.prompts),
      "prompt_histogram": prompts.histogram(results.prompts),
    }
    known = results.prompts.get("captions")
    twin = (results.beside or {}).get("captions")
    context |= {
      "caption_rows": prompts_captions.rows(known, twin),
      "caption_copies": prompts_captions.by_copies(known, twin),
      "caption_cliques": prompts_captions.cliques(known),
      "caption_curve": prompts_captions.curve(known),
      "caption_twin": twin is not None,
    }
  return context


def _side(results: Results, gallery: int) -> dict[str, Any]:
  """What is told of surrogate conditions."""
  found = results.side
  if found is None:
    return {"side": None, "side_alone": False}
  return {
    "side": found,
    "side_alone": results.extraction is None and results.membership is None,
    "side_tables": side.tables(found),
    "side_facts": side.facts(found),
    "side_accuracy": side.accuracy(found),
    "side_scales": side.by_scale(found),
    "side_gallery": side.gallery(results.side_pictures, gallery),
  }


def config_file(config: dict[str, Any]) -> str:
  """The resolved config as an experiment file that runs it again."""
  body = pprint.pformat(config, sort_dicts=False, width=76)
  return (
    '"""The config of a finished run, as it was resolved."""\n\n'
    "import ml_collections\n\n"
    f"CONFIG = {body}\n\n\n"
    'def get_config(arg=""):\n'
    "  if arg:\n"
    '    raise ValueError(f"this config takes no arguments, got {arg!r}")\n'
    "  return ml_collections.ConfigDict(CONFIG).lock()\n"
  )


def environment() -> jinja2.Environment:
  """What fills the templates: every value is escaped, none may be missing."""
  return jinja2.Environment(
    loader=jinja2.PackageLoader("diffmem.report", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )


def _gallery(pairs: Pairs, limit: int) -> dict[str, Any]:
  """Rows with their pictures, and how many more there are."""
  shown = []
  if pairs.generations is not None and pairs.references is not None:
    for row, generation, reference in zip(
      pairs.rows[:limit],
      pairs.generations[:limit],
      pairs.references[:limit],
      strict=False,
    ):
      shown.append(
        {
          **row,
          "generation": images.from_array(generation),
          "reference": images.from_array(reference),
          "distance": words.distance(float(row["distance"])),
          "ratio": f"{float(row['ratio']):.2f}",
          "copies": int(row["copies"] or 0),
          "hits": int(row["hits"] or 0),
        }
      )
  return {"shown": shown, "total": len(pairs.rows)}


def _previews(results: Results) -> list[dict[str, Any]]:
  """A few pictures of training, evenly apart, the last one among them."""
  every = results.previews
  if len(every) > PREVIEWS:
    last = len(every) - 1
    places = [round(i * last / (PREVIEWS - 1)) for i in range(PREVIEWS)]
    every = [every[i] for i in places]
  return [
    {"step": words.count(step), "picture": images.from_png(content, 210)}
    for step, content in every
  ]


def _data(results: Results) -> list[tuple[str, str]]:
  """What is known of the images, as (name, text)."""
  if not results.data:
    return []
  dataset = results.data.get("dataset") or {}
  split = results.data.get("split") or {}
  rows = [
    (name, dataset.get(name))
    for name in ("source", "crop", "resize", "filter", "rows", "sha256")
  ]
  rows += [
    (f"split {key}" if key != "sha256" else "split sha256", value)
    for key, value in split.items()
  ]
  return [(k, _short(v)) for k, v in rows if v is not None]


def _model(results: Results) -> list[tuple[str, str]]:
  """What is known of the model and of its training."""
  shadows = results.metas.get("shadows") or {}
  train = results.metas.get("train") or shadows
  made_by = train.get("config", {})  # absent where others trained the model
  rows = []
  network, training = (made_by.get(k) or {} for k in ("models", "train"))
  if "name" in network:
    rows.append(("network", network["name"]))
  if train.get("parameters"):
    rows.append(("parameters", words.count(train["parameters"])))
  if train.get("images"):
    rows.append(("training images, with copies", words.count(train["images"])))
  for key in ("steps", "batch", "lr"):
    if key in training:
      rows.append((key, f"{training[key]:,}"))
  if shadows:
    rows.append(("shadow models, trained alike", str(shadows["shadows"])))
  if train.get("weights"):
    rows.append(("sha256 of the weights", str(train["weights"])))
  sample = results.metas.get("sample") or {}
  rows += [_enlarged(stage) for stage in sample.get("upsamplers") or ()]
  return [(k, str(v)) for k, v in rows]


def _enlarged(stage: dict[str, Any]) -> tuple[str, str]:
  """What is told of a super-resolution stage that images went through."""
  h, w, _ = stage["shape"]
  said = [
    f"{words.count(stage['parameters'])} parameters",
    f"trained in {words.count(round(stage['seconds']))} s",
    f"weights {stage['weights'][:12]}",
  ]
  if not stage["same_split"]:
    said.append("on another split: it has seen other members")
  return f"enlarged to {h} x {w} by", ", ".join(said)


def _json(value: Any) -> str:
  """Indented, with lists of plain values on one line."""
  text = json.dumps(tables.finite(value), indent=2, ensure_ascii=False)
  flat = re.compile(r"\[\s+([^\[\]{}\"]*?)\s+\]")
  return flat.sub(lambda m: f"[{' '.join(m[1].split())}]", text)


def _short(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value)

# SPDX-License-Identifier: Apache-2.0
"""What was found, in sentences; every claim stands beside its control."""

from typing import Any

import scipy.stats

from diffmem.report import (
  checks,
  claims,
  inpaint,
  measures,
  prompts,
  prompts_captions,
  side,
  words,
)
from diffmem.report.results import Results

CLEAR = 0.01  # below this probability, false matches do not explain it


def verdict(results: Results) -> tuple[str, list[str]]:
  """(the first sentence, further sentences), plain text."""
  said = []
  if results.extraction is not None:
    said += extraction(results.extraction)
  if results.side is not None:
    said += side.sentences(results.side)
  if results.prompts is not None:
    said += prompts.sentences(results.prompts)
    known, twin = (
      (found or {}).get("captions")
      for found in (results.prompts, results.beside)
    )
    said += prompts_captions.sentences(known, twin)
  if results.membership is not None:
    said += membership(results.membership, results.membership_aside)
  said += inpaint.sentences(results) + measures.sentences(results)
  alone = results.side is not None and not (
    results.extraction or results.membership
  )
  if alone or results.aside:
    return said[0], said[1:]  # nothing else was asked
  if not said:
    said = ["No attack has finished in this folder, so nothing is known yet."]
  if results.extraction is None and results.outside and not results.data:
    said.append(
      "No training images were given, so it is not known whether generations "
      "reproduce any."
    )
  elif results.extraction is None:
    said.append(
      "Whether generations reproduce training images is not known: the "
      f"extraction stage {_why_not(results, 'extraction')}."
    )
  if results.membership is None and not results.outside:
    said.append(
      "Whether the model tells its training images from others is not known: "
      f"the membership stage {_why_not(results, 'membership')}."
    )
  return said[0], said[1:]


def _why_not(results: Results, stage: str) -> str:
  return (
    "began but has not finished"
    if stage in results.unfinished
    else "has not run"
  )


def extraction(found: dict) -> list[str]:
  """Reproduced images, the control, whether it differs, what was planted."""
  unique, searched = found["unique"], found["searched"]
  held_out = found["held_out"]
  among = words.several(found["generated"], "generated image")
  if unique:
    verb = "was" if unique == 1 else "were"
    lead = (
      f"{words.count(unique)} of {words.several(searched, 'training image')} "
      f"{verb} reproduced in {among}"
    )
  else:
    images = words.several(searched, "training image")
    lead = f"None of {images} was reproduced in {among}"
  control = found.get("control") or {}
  if "expected" in control:
    return [f"{lead}.", *_by_chance(found, control), *_planted(found)]
  if not held_out["searched"]:
    return [
      f"{lead}. This number has no control.",
      "There were no held-out images to search for, so it is not known how "
      "many of these matches any set of images would give: do not rely on "
      "them.",
      *_planted(found),
    ]
  others = words.several(held_out["searched"], "held-out image")
  gave = words.count(held_out["unique"])
  lead += (
    f". The same search for {others}, which the model never saw, found {gave}."
  )
  return [lead, *_compared(found), *_planted(found)]


def _by_chance(found: dict, control: dict) -> list[str]:
  """Matching generations against what the rule lets through."""
  count, p = control["generations"], control["p_value"]
  expected = words.several(round(control["expected"][0]), "image")
  said = (
    "There were no held-out images; a rule set on the training images "
    f"themselves would call {expected} of {words.count(found['generated'])} "
    f"fresh ones a copy, and called {words.count(count)}"
  )
  if p < CLEAR:
    return [
      f"{said}: chance gives so many with probability {words.probability(p)}."
    ]
  return [
    f"{said}: chance alone can give so many (probability "
    f"{words.probability(p)}), so this is no evidence of memorization."
  ]


def equal_sets(found: dict) -> tuple[int, int, int]:
  """(members found, held-out found, searched in each), equal in number."""
  held_out = found["held_out"]
  control = found.get("control") or {
    "members": found["unique"],
    "held_out": held_out["unique"],
    "searched": held_out["searched"],
  }
  return control["members"], control["held_out"], control["searched"]


def difference(found: dict) -> float:
  """P(a difference this large or larger, were both sets alike).

  Fisher's exact test, one-sided, on sets of equal size.
  """
  members, false, searched = equal_sets(found)
  if not searched:
    return 1.0
  table = [[members, searched - members], [false, searched - false]]
  tested: Any = scipy.stats.fisher_exact(table, alternative="greater")
  return float(tested.pvalue)


def _compared(found: dict) -> list[str]:
  members, false, searched = equal_sets(found)
  said = []
  if searched != found["searched"]:
    said.append(
      f"In sets of equal size, {words.count(searched)} images each, "
      f"{words.count(members)} training and {words.count(false)} held-out "
      "images were found."
    )
  p = difference(found)
  if p < CLEAR:
    said.append(
      "False matches do not explain the difference: were training and "
      "held-out images alike, one this large would arise with probability "
      f"{words.probability(p)} (Fisher’s exact test)."
    )
  elif members:
    said.append(
      "False matches alone can produce a difference this small (probability "
      f"{words.probability(p)}, Fisher’s exact test): the count alone is no "
      "evidence of memorization."
    )
  else:
    exact = words.exact_interval(found["unique"], found["searched"])
    ends = found.get("unique_interval") or exact or (0, 1)
    said.append(
      "That does not prove that nothing was memorized: the 95% interval of "
      f"the share reproduced reaches {words.share(ends[1])}, and more "
      "generated images may find more."
    )
  closer = (found.get("control") or {}).get("closer")
  if false and closer:
    said.append(
      f"{words.count(closer)} of the {words.count(found['unique'])} are closer "
      "than the closest match of a held-out image."
    )
  return said


def _planted(found: dict) -> list[str]:
  """How many of the images planted several times came back."""
  rows = {int(k): v for k, v in found.get("planted", {}).items()}
  many = {k: v for k, v in rows.items() if k > 1}
  placed = sum(v[1] for v in many.values())
  if not placed:
    return []
  hit = sum(v[0] for v in many.values())
  lowest, highest = min(many), max(many)
  times = f"{lowest}" if lowest == highest else f"{lowest} to {highest}"
  text = (
    f"Of {words.several(placed, 'image')} planted {times} times in the "
    f"training set, {words.count(hit) if hit else 'none'} came back"
  )
  whole = [k for k, (got, out_of) in many.items() if out_of and got == out_of]
  sure = [k for k in whole if all(j in whole for j in many if j >= k)]
  if sure and hit < placed:
    text += f", among them every one planted {min(sure)} times or more"
  elif hit == placed:
    text = text.replace(f"{words.count(hit)} came", "every one came")
  got, out_of = rows.get(1, [0, 0])
  if out_of and not (got or hit):
    text += (
      f", nor did any of the {words.count(out_of)} ordinary images, seen once"
    )
  elif out_of:
    text += (
      f"; of the {words.count(out_of)} ordinary images, seen once, "
      f"{words.count(got) if got else 'none'} did"
    )
  return [f"{text}."]


def membership(found: dict, aside: dict | None = None) -> list[str]:
  """An attack named by a rule, the best of all, and controls that fail."""
  name = claims.leading(found)
  if name is None:
    return []
  said = _attack(name, found[name])
  attacks = claims.scored(found)
  if len(attacks) > 1:
    said.append(_best(name, found, attacks))
  wrong, judged = checks.failures(aside or {})
  if wrong:
    said.append(
      f"{len(wrong)} of {words.several(judged, 'control')} of membership "
      f"failed, so read these numbers with care: {wrong[0][1]}"
    )
  return said


def _attack(name: str, attack: dict) -> list[str]:
  """Its AUC, and its hits at 1% false alarms."""
  value, low, high = attack["auc"]
  ends = f"95% interval {low:.3f} to {high:.3f}"
  if low <= 0.5 <= high:
    said = [
      f"The {name} attack on the model cannot tell training images from "
      f"others: its AUC is {value:.3f} ({ends}), and 0.5 is guessing."
    ]
  elif high < 0.5:
    said = [
      f"The {name} attack ranks training images below others: its AUC is "
      f"{value:.3f} ({ends}), worse than guessing, which gives 0.5."
    ]
  else:
    said = [
      f"Given a training image and one the model never saw, the {name} attack "
      f"picks the training image with probability {value:.3f} (AUC; {ends}); "
      "guessing gives 0.5."
    ]
  tpr = attack.get("tpr@0.01")
  if tpr:
    said.append(
      f"At 1% false alarms the {name} attack recognises "
      f"{words.share(tpr[0])} of the training images "
      f"({words.interval(tpr[1:])})."
    )
  return said


def _best(name: str, found: dict, attacks: dict) -> str:
  """Which of the attacks reached most, and how this one came to be named."""
  best = claims.best(found)
  assert best is not None
  top, (value, low, high), count = best
  said = (
    f"{name} is named here by a rule that looks at no result: "
    f"{claims.rule(found)}. "
  )
  if top == name:
    return f"{said}Of all {count} attacks it also has the highest AUC."
  said += (
    f"Of all {count} attacks {top} has the highest AUC, {value:.3f} "
    f"({low:.3f} to {high:.3f}, which allows for being the best of {count})"
  )
  tpr = attacks[top].get("tpr@0.01")
  if tpr:
    said += f", and recognises {claims.rate(tpr)} at 1% false alarms"
  return f"{said}."

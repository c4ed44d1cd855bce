# SPDX-License-Identifier: Apache-2.0
"""Which attack the page speaks of, and what papers say that this run tests.

The attack in the first sentence is named by a rule that looks at no score, so
that its interval means what it says; the best of all attacks is named beside
it with an interval that allows for having been picked (Bonferroni, on the
logit scale). Two attacks on the same images count as different where their 95%
intervals are apart: that is careful, for what both of them share cancels.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import scipy.stats

from diffmem.report import words

AT = "tpr@0.01"
PAPER = "Carlini et al. 2023"


def scored(membership: dict) -> dict[str, dict]:
  """The attacks that have an AUC with its interval."""
  return {
    name: attack
    for name, attack in membership.items()
    if isinstance(attack, dict) and attack.get("auc")
  }


def leading(membership: dict) -> str | None:
  """The attack of the first sentence: LiRA, a shadow attack, the first."""
  attacks = scored(membership)
  shadow = [k for k, v in attacks.items() if v.get("kind") == "shadow"]
  lira = [k for k in shadow if attacks[k].get("attack") == "lira"]
  return next(iter(lira or shadow or attacks), None)


def rule(membership: dict) -> str:
  """The rule of `leading`, in words."""
  kinds = {attack.get("kind") for attack in scored(membership).values()}
  return (
    "the first LiRA of the config, or else its first attack with shadow models"
    if "shadow" in kinds
    else "the first attack that the config names"
  )


def best(membership: dict) -> tuple[str, list[float], int] | None:
  """(the attack of highest AUC, its AUC, how many there are).

  The interval allows for the choice: each of k attacks at 1 - 0.05 / k.
  """
  attacks = scored(membership)
  if not attacks:
    return None
  name = max(attacks, key=lambda k: attacks[k]["auc"][0])
  return name, allowed(attacks[name]["auc"], len(attacks)), len(attacks)


def allowed(auc: Sequence[float], count: int) -> list[float]:
  """The 95% interval widened to hold for the best of `count` at once."""
  value, low, high = auc
  more = scipy.stats.norm.isf(0.025 / count) / scipy.stats.norm.isf(0.025)

  def ends(end: float) -> float:
    if not 0 < value < 1 or not 0 < end < 1:
      return end
    middle = math.log(value / (1 - value))
    far = middle + more * (math.log(end / (1 - end)) - middle)
    return 1 / (1 + math.exp(-far))

  return [value, ends(low), ends(high)]


def told(a: Sequence[float] | None, b: Sequence[float] | None) -> int | None:
  """1 where a is clearly above b, -1 where below, 0 where neither is."""
  if not a or not b:
    return None
  return int(a[1] > b[2]) - int(a[2] < b[1])


def rate(value: Sequence[float]) -> str:
  """[.12, .08, .2] -> "12% (8% to 20%)"."""
  return f"{words.share(value[0])} ({words.interval(value[1:])})"


def auc(value: Sequence[float]) -> str:
  """[.9, .89, .91] -> "0.900 (0.890 to 0.910)"."""
  return (
    f"{words.decimal(value[0])} ({words.interval(value[1:], words.decimal)})"
  )


def tested(membership: dict, aside: dict) -> list[dict[str, Any]]:
  """What papers say, and whether it holds here.

  Rows of claim, source, holds (True, False, None where this run does not
  decide it), and what this run says.
  """
  attacks = scored(membership)
  rows = [
    _shadows(attacks),
    _lira_and_rmia(attacks),
    _without(attacks),
    *_averaging(attacks),
    _mirrored(attacks),
    _inside(attacks),
    _training(aside),
    _outliers(aside),
    _copies(attacks),
  ]
  return [row for row in rows if row is not None]


def _row(claim: str, source: str, holds: int | bool | None, says: str) -> dict:
  if holds is not None and not isinstance(holds, bool):
    holds = None if holds == 0 else holds > 0
  return {"claim": claim, "source": source, "holds": holds, "says": says}


def _of_kind(attacks: dict, kind: str) -> str | None:
  """The first attack with shadow models of this kind."""
  return next((k for k, v in attacks.items() if v.get("attack") == kind), None)


def _baseline(attacks: dict) -> str | None:
  return "loss" if "loss" in attacks else _of_kind(attacks, "loss")


def _pair(attacks: dict, a: str | None, b: str | None) -> tuple | None:
  if a is None or b is None or a == b:
    return None
  found = attacks[a].get(AT), attacks[b].get(AT)
  return found if all(found) else None


def _shadows(attacks: dict) -> dict | None:
  lira, loss = _of_kind(attacks, "lira"), _baseline(attacks)
  pair = _pair(attacks, lira, loss)
  if pair is None:
    return None
  return _row(
    "LiRA recognises more than one threshold for all losses",
    "Carlini et al. 2022; 2023, section 5.2",
    told(*pair),
    f"At 1% false alarms {lira} recognises {rate(pair[0])} of the members, "
    f"the loss threshold {rate(pair[1])}.",
  )


def _lira_and_rmia(attacks: dict) -> dict | None:
  rmia, lira = _of_kind(attacks, "rmia"), _of_kind(attacks, "lira")
  pair = _pair(attacks, rmia, lira)
  if pair is None:
    return None
  return _row(
    "RMIA recognises more than LiRA with few shadow models",
    "Zarifzadeh et al. 2024",
    told(*pair),
    f"At 1% false alarms {rmia} recognises {rate(pair[0])}, "
    f"{lira} {rate(pair[1])}.",
  )


def _without(attacks: dict) -> dict | None:
  """Attacks that their papers compare with the loss threshold."""
  loss = _baseline(attacks)
  others = {
    name: pair
    for name, attack in attacks.items()
    if attack.get("attack") not in ("lira", "rmia", "loss")
    and (pair := _pair(attacks, name, loss)) is not None
  }
  if not others or loss is None:
    return None
  sides: dict[Any, list[str]] = {1: [], 0: [], -1: []}
  for name, pair in others.items():
    sides[told(*pair)].append(f"{name} {words.share(pair[0][0])}")
  parts = [
    f"{what}: {words.joined(sides[side])}"
    for side, what in (
      (1, "clearly more"),
      (0, "not told apart"),
      (-1, "clearly less"),
    )
    if sides[side]
  ]
  holds = True if len(sides[1]) == len(others) else None
  if sides[-1] or not (sides[1] or sides[0]):
    holds = False
  return _row(
    "The other attacks recognise more than the loss threshold",
    "their papers, each for its own",
    holds,
    f"At 1% false alarms, where the loss threshold recognises "
    f"{rate(attacks[loss][AT])}, {'; '.join(parts)}.",
  )


def _averaging(attacks: dict) -> Iterable[dict]:
  """One row for the loss and one for LiRA: one noise draw against all."""
  named = [_baseline(attacks), _of_kind(attacks, "lira")]
  for name in dict.fromkeys(n for n in named if n is not None):
    rows = _draws(attacks[name])
    if len(rows) < 2:
      continue
    first, last = rows[0], rows[-1]
    if not (first.get(AT) and last.get(AT)):
      continue
    yield _row(
      f"Averaging the loss over noise draws helps ({name})",
      f"{PAPER}, section 5.2",
      told(last[AT], first[AT]),
      f"From {words.several(first['draws'], 'draw')} to {last['draws']}, "
      f"{rate(first[AT])} become {rate(last[AT])} at 1% false alarms, and the "
      f"AUC goes {_way(first['auc'], last['auc'])}from {first['auc'][0]:.3f} "
      f"to {last['auc'][0]:.3f}.",
    )


def _way(first: Sequence[float], last: Sequence[float]) -> str:
  return {1: "clearly up, ", -1: "clearly down, "}.get(
    told(last, first) or 0, ""
  )


def _draws(attack: dict, views: int | None = None) -> list[dict]:
  """Entries of by_draws with one augmentation, or the most there are."""
  entries = attack.get("by_draws") or []
  sizes = [len(e.get("augment") or ()) for e in entries]
  wanted = min(sizes, default=0) if views is None else views
  return sorted(
    (e for e, s in zip(entries, sizes, strict=True) if s == wanted),
    key=lambda e: e["draws"],
  )


def _mirrored(attacks: dict) -> dict | None:
  name = _of_kind(attacks, "lira") or _baseline(attacks)
  if name is None:
    return None
  entries = attacks[name].get("by_draws") or []
  most = max((len(e.get("augment") or ()) for e in entries), default=0)
  one, all_of = _draws(attacks[name]), _draws(attacks[name], most)
  if most < 2 or not (one[-1].get(AT) and all_of[-1].get(AT)):
    return None
  return _row(
    f"Averaging over augmentations helps ({name})",
    f"{PAPER}, section 5.2",
    told(all_of[-1][AT], one[-1][AT]),
    f"With {words.joined(one[-1]['augment'])} alone {rate(one[-1][AT])} are "
    f"recognised at 1% false alarms, with "
    f"{words.joined(all_of[-1]['augment'])} {rate(all_of[-1][AT])}.",
  )


def swept(attack: dict) -> list[dict]:
  """The entries of a sweep whose times are numbers, in their order."""
  entries = [
    e
    for e in attack.get("sweep") or []
    if e.get("auc")
    and isinstance(e.get("t"), int | float)
    and not isinstance(e["t"], bool)
  ]
  return sorted(entries, key=lambda e: e["t"])


def _inside(attacks: dict) -> dict | None:
  """Where in its range the AUC of each attack is highest."""
  places: dict[str, list[str]] = {"inside": [], "lower": [], "upper": []}
  ranges = set()
  for name, attack in attacks.items():
    entries = swept(attack)
    if len(entries) < 3:
      continue
    at = max(range(len(entries)), key=lambda i: entries[i]["auc"][0])
    ranges.add((entries[0]["t"], entries[-1]["t"]))
    place = "lower" if at == 0 else "inside"
    place = "upper" if at == len(entries) - 1 else place
    places[place].append(f"{name} (t = {entries[at]['t']})")
  total = sum(map(len, places.values()))
  if not total:
    return None
  parts = []
  if places["inside"]:
    parts.append(f"inside for {words.joined(places['inside'])}")
  parts += [
    f"at the {end} end for {words.joined(places[end])}, where times beyond "
    "may do better"
    for end in ("lower", "upper")
    if places[end]
  ]
  where = " or ".join(f"{a} to {b}" for a, b in sorted(ranges))
  return _row(
    "The best noise level is neither the least nor the most",
    f"{PAPER}, section 5.2",
    len(places["inside"]) == total or (None if places["inside"] else False),
    f"Of the times tried, {where}, the highest AUC is {'; '.join(parts)}.",
  )


def _training(aside: dict) -> dict | None:
  steps = (aside.get("_by_step") or {}).get("steps") or []
  if len(steps) < 2:
    return None
  first, last = steps[0], steps[-1]
  said = (
    f"From step {words.count(first['step'])} to {words.count(last['step'])} "
    f"the AUC of the loss goes from {auc(first['auc'])} to "
    f"{auc(last['auc'])}"
  )
  if "loss_of_non_members" in first:
    said += (
      f", while the loss of images that were not trained on goes from "
      f"{first['loss_of_non_members']:.3g} to "
      f"{last['loss_of_non_members']:.3g}"
    )
  return _row(
    "Longer training leaks more",
    f"{PAPER}, section 5.2",
    told(last["auc"], first["auc"]),
    f"{said}.",
  )


def _outliers(aside: dict) -> dict | None:
  found = aside.get("_images") or {}
  isolation = found.get("isolation") or {}
  gap, key = isolation.get("gap"), "gap"
  if gap is None:
    gap, key = isolation.get("members"), "members"
  if gap is None:
    return None
  what = (
    "how much higher an image scores as a member than otherwise"
    if key == "gap"
    else "the score of a member"
  )
  sure = gap["p"] < 0.01
  return _row(
    "Images unlike all others are the easiest",
    f"{PAPER}, section 5.2",
    (gap["rho"] > 0) if sure else None,
    f"Spearman’s rank correlation of {what} ({found.get('attack')}) with its "
    f"distance to its {isolation.get('neighbours')} nearest others is "
    f"{words.signed(gap['rho'])} over {words.count(gap['images'])} images "
    f"(probability by chance {words.probability(gap['p'])}).",
  )


def copies(attack: dict) -> dict[int, list]:
  """AUC by how often an image was in training, of the workdir's own model."""
  main = attack.get("main") or {}
  found = attack.get("by_copies") or main.get("by_copies") or {}
  return {int(k): v for k, v in sorted(found.items(), key=lambda x: int(x[0]))}


def _copies(attacks: dict) -> dict | None:
  name = leading(attacks)
  by = copies(attacks[name]) if name is not None else {}
  by = {k: v for k, v in by.items() if k > 1 and isinstance(v, list | tuple)}
  if name is None or not by:
    return None
  attack = attacks[name]
  once = (attack.get("main") or attack)["auc"]
  most = max(by)
  return _row(
    "Images that were in training several times are easier",
    f"{PAPER}, section 4, of extraction",
    told(by[most], once),
    f"The AUC of {name} is {auc(by[most])} for images planted {most} times "
    f"and {auc(once)} for those seen once.",
  )

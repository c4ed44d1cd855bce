# SPDX-License-Identifier: Apache-2.0
"""What stands beside the attacks: controls, audits, extraction."""

from typing import Any

from diffmem.report import claims, words

CONTROLS = {
  "random": (
    "Pure noise in place of scores",
    "an AUC of 0.5, thresholds that keep their share of false alarms",
  ),
  "shuffled": (
    "Who is a member, exchanged at random",
    "an AUC of 0.5",
  ),
  "non_members": (
    "Held-out against calibration images, none of them members",
    "an interval of the AUC that holds 0.5",
  ),
  "blind": (
    "A classifier that never sees the model",
    "an AUC not above 0.5, or the split itself leaks",
  ),
  "generated": (
    "Generated images as a third class",
    "for information: nothing to pass",
  ),
}


def controls(aside: dict) -> dict[str, Any] | None:
  """One row a kind of control; every failure, and every sentence."""
  found = aside.get("_controls")
  if not found:
    return None
  rows, failed, every = [], [], []
  for kind, (title, expected) in CONTROLS.items():
    each = cases(kind, found.get(kind))
    if not each:
      skipped = (found.get(kind) or {}).get("skipped")
      rows.append(
        {
          "title": title,
          "expected": expected,
          "word": "not made",
          "says": skipped or "no numbers",
        }
      )
      continue
    wrong = [(n, c) for n, c in each.items() if c.get("passes") is False]
    judged = [c for c in each.values() if c.get("passes") is not None]
    failed += [{"title": title, "name": n, "says": c["says"]} for n, c in wrong]
    every += [
      {"title": title, "name": n, "says": c["says"]} for n, c in each.items()
    ]
    rows.append(
      {
        "title": title,
        "expected": expected,
        "word": _word(len(wrong), len(judged)),
        "says": _together(each),
      }
    )
  return {"rows": rows, "failed": failed, "every": every}


def _word(wrong: int, judged: int) -> str:
  if not judged:
    return "for information"
  if not wrong:
    return "passed" if judged == 1 else f"passed ({judged} of {judged})"
  return "FAILED" if judged == 1 else f"FAILED ({wrong} of {judged})"


def _together(each: dict[str, dict]) -> str:
  """What the cases of one kind say, in one sentence where they are many."""
  if len(each) == 1:
    return next(iter(each.values()))["says"]
  for key, what in (
    ("mean_auc", "Mean AUC"),
    ("auc", "AUC"),
    ("auc_against_non_members", "AUC of generated images over non-members"),
  ):
    values: list[Any] = [c[key] for c in each.values() if c.get(key)]
    if values:
      flat: list[float] = [
        v[0] if isinstance(v, list | tuple) else v for v in values
      ]
      said = f"{what} {min(flat):.3f} to {max(flat):.3f}"
      break
  else:
    return ""
  rates: list[float] = [
    c["mean_realised_fpr"] for c in each.values() if _has_rate(c)
  ]
  if rates:
    asked = next(c["nominal_fpr"] for c in each.values() if _has_rate(c))
    said += (
      f"; thresholds for {words.share(asked)}"
      f" let {words.share(min(rates))} to {words.share(max(rates))} pass"
    )
  called = [c["called_members"][0] for c in each.values() if _has_called(c)]
  if called:
    said += (
      f"; {words.share(min(called))} to {words.share(max(called))} of them are "
      "called members"
    )
  return f"{said}, over {words.several(len(each), 'case')}."


def _has_rate(case: dict) -> bool:
  return case.get("mean_realised_fpr") is not None


def _has_called(case: dict) -> bool:
  return case.get("called_members") is not None


def cases(kind: str, found: dict | None) -> dict[str, dict]:
  """The cases of one kind of control, by name: attacks, mostly."""
  if not found:
    return {}
  if "says" in found:
    return {kind: found}
  return {k: v for k, v in found.items() if isinstance(v, dict) and "says" in v}


def failures(aside: dict) -> tuple[list[tuple[str, str]], int]:
  """([(kind, what it says)] of failed controls, how many were judged).

  The blind classifier comes first: if the split leaks, all else is moot.
  """
  wrong, judged = [], 0
  for kind in CONTROLS:
    for case in cases(kind, (aside.get("_controls") or {}).get(kind)).values():
      judged += case.get("passes") is not None
      if case.get("passes") is False:
        wrong.append((kind, case["says"]))
  return sorted(wrong, key=lambda one: one[0] != "blind"), judged


def joined(aside: dict) -> dict[str, Any] | None:
  """How extracted members score, for each attack."""
  found = aside.get("_joined")
  if not found:
    return None
  if "skipped" in found:
    return {"skipped": found["skipped"]}
  rows = []
  for name, one in found.items():
    for what, part in (("all members", one), ("seen once", one.get("once"))):
      if not part or (what == "seen once" and part == _without_once(one)):
        continue
      top = part.get("top") or {}
      rows.append(
        {
          "name": name,
          "what": what,
          "extracted": words.count(part["extracted"]),
          "members": words.count(part["members"]),
          "auc": claims.auc(part["auc"]) if part.get("auc") else "too few",
          "top": [
            f"{words.count(got)} of the first {words.count(size)}"
            for got, size in top.values()
          ],
        }
      )
  shares = next((list(v["top"]) for v in found.values() if v.get("top")), [])
  for row in rows:
    row["top"] += ["–"] * (len(shares) - len(row["top"]))
  return {
    "heads": [words.share(float(share)) for share in shares],
    "rows": rows,
  }


def _without_once(one: dict) -> dict:
  return {k: v for k, v in one.items() if k != "once"}


def canaries(aside: dict) -> dict[str, Any] | None:
  """Exposure by kind and by how often a canary was inserted."""
  found = (aside.get("_audits") or {}).get("canaries")
  if not found:
    return None
  if "missing" in found:
    return {"missing": found["missing"]}
  rows, kinds = [], kinds_of(found)
  for kind, one in kinds.items():
    by = sorted(one["by_copies"].items(), key=lambda x: int(x[0]))
    for copies, at in by:
      rows.append(
        {
          "kind": kind,
          "copies": "never (control)" if int(copies) == 0 else copies,
          "canaries": words.count(at["canaries"]),
          "mean": f"{at['mean']:.2f}",
          "at_most": f"{at['at_most']} of {at['canaries']}",
          "p": words.probability(at["p"]),
          "sure": at["p"] < 0.01,
        }
      )
  if not rows:
    return {"missing": "the results hold no exposure"}
  one = next(iter(kinds.values()))
  return {
    "rows": rows,
    "most": f"{one['most']:.2f}",
    "reference": words.count(one["reference"]),
    "t": one["t"],
    "inserted": found.get("inserted"),
    "says": [_canaries_say(kind, one) for kind, one in kinds.items()],
  }


def kinds_of(found: dict | None) -> dict[str, dict]:
  """The kinds of canaries that there are."""
  return {
    k: v
    for k, v in (found or {}).items()
    if isinstance(v, dict) and v.get("by_copies")
  }


def _canaries_say(kind: str, one: dict) -> str:
  by = {int(k): v for k, v in one["by_copies"].items()}
  seen = sorted(k for k in by if k > 0 and by[k]["p"] < 0.01)
  said = (
    f"{kind.capitalize()} canaries: none of the insertions makes them stand "
    "out (p < 0.01)"
  )
  if seen:
    said = (
      f"{kind.capitalize()} canaries stand out (p < 0.01) when inserted "
      f"{words.joined(seen)} time{'' if seen == [1] else 's'}"
    )
  if 0 in by:
    sure = by[0]["p"] < 0.01
    said += "; those never inserted " + (
      "do so too, which they should not" if sure else "do not, as it should be"
    )
  return f"{said}."


def one_run(aside: dict) -> dict[str, Any] | None:
  """Epsilon lower bounds, and the claim that they bear."""
  found = (aside.get("_audits") or {}).get("one_run")
  if not found:
    return None
  if "missing" in found:
    return {"missing": found["missing"]}
  attacks = {k: v for k, v in found.items() if isinstance(v, dict)}
  if not attacks:
    return {"missing": "no attack without shadow models gave scores"}
  rows = [
    {
      "name": name,
      "epsilon": f"{one['epsilon']:.2f}",
      "guesses": f"{words.count(one['correct'])} of "
      f"{words.count(one['guesses'])}",
      "images": words.count(one["images"]),
      "in_alone": _two(one.get("in_alone")),
      "rates": _two(one.get("rates")),
    }
    for name, one in attacks.items()
  ]
  one = next(iter(attacks.values()))
  return {"rows": rows, "says": _bound_says(attacks), "delta": one["delta"]}


def _bound_says(attacks: dict[str, dict]) -> str:
  """What is claimed, of the first attack, which nothing chose."""
  name, one = next(iter(attacks.items()))
  sure = words.share(1 - one["significance"])
  asked = f"δ = {one['delta']:g}"
  if one["epsilon"] > 0:
    said = (
      f"At {sure} confidence, this way of training is not "
      f"(ε, δ)-differentially private with {asked} for any ε below "
      f"{one['epsilon']:.2f} ({name})"
    )
  else:
    said = (
      f"The {name} attack refutes no ε at {sure} confidence and {asked}: that "
      "is no proof of privacy, a stronger attack may refute one"
    )
  high = max(attacks, key=lambda k: attacks[k]["epsilon"])
  joint = 1 - one["significance"] * len(attacks)
  if len(attacks) > 1 and joint > 0 and attacks[high]["epsilon"] > 0:
    said += (
      f". Each row holds by itself; all {len(attacks)} at once, and so the "
      f"highest, {attacks[high]['epsilon']:.2f} ({high}), at "
      f"{words.share(joint)} confidence"
    )
  return f"{said}."


def sets(aside: dict) -> dict[str, Any] | None:
  """Dataset inference: power and false alarms by the size of the set."""
  found = (aside.get("_audits") or {}).get("sets")
  if not found:
    return None
  if not found.get("by_size"):
    return {"missing": found.get("missing") or "the results hold no sizes"}
  alpha = found["alpha"]
  rows = []
  for one in found["by_size"]:
    rows.append(
      {
        "size": words.count(one["size"]),
        "power": claims.rate(one["power"]),
        "control": claims.rate(one["control"]),
        "sound": one["control"][1] <= alpha,
        "median_p": words.probability(one["median_p"]),
      }
    )
  sure = [o["size"] for o in found["by_size"] if o["power"][1] > 0.5]
  says = "No size tried is recognised more often than not."
  if sure:
    says = (
      f"A set of {words.count(min(sure))} images is recognised more often than "
      "not."
    )
  return {
    "rows": rows,
    "alpha": words.share(alpha),
    "resamples": words.count(found["resamples"]),
    "attacks": words.joined(found["attacks"]),
    "says": says,
  }


def _two(value: float | None) -> str:
  return "–" if value is None else f"{value:.2f}"

# SPDX-License-Identifier: Apache-2.0
"""How the claims of Carlini et al. 2023 are read off what was observed.

Each function takes, for every arm that it needs, what was observed of its runs,
seed by seed (`study_observe`), and gives one number for each seed, which the
claim says is positive. Arms of one seed share their split, so that a difference
of two arms is one of pairs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmem import stats
from diffmem.report import words

Arm = list[dict[str, Any]]  # what was observed, by seed
Numbers = Sequence[int | float] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Measured:
  """What a row rests on.

  values: positive where the claim says so, one a unit. says: the numbers that
  they come from. control: the same where nothing should be found. doubt: why
  the claim stays undecided whatever the values are, or None.
  """

  values: list[float]
  says: str
  control: str
  doubt: str | None = None


def span(values: Sequence[int | float], form: str = "g") -> str:
  """The mean and the range over seeds."""
  mean = float(np.mean(values))
  low, high = min(values), max(values)
  ends = f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"
  return f"{mean:.3g} ({ends})"


def shares(values: Sequence[int | float]) -> str:
  """The mean and the range of shares, in percent."""
  mean, low, high = np.mean(values), min(values), max(values)
  return (
    f"{words.share(float(mean))} ({words.share(low)} to {words.share(high)})"
  )


def _unique(arm: Arm) -> list[int]:
  return [run["extraction"]["unique"] for run in arm]


def _false(arm: Arm) -> list[int]:
  return [run["extraction"]["held_out"] for run in arm]


def minus(a: Numbers, b: Numbers) -> list[float]:
  """Differences, seed by seed."""
  return [float(x - y) for x, y in zip(a, b, strict=True)]


def _attack(arm: Arm, name: str, key: str) -> list[float]:
  """The AUC of an attack, or its rate at 1% false alarms.

  Raises ValueError where so few non-members resolve no such rate.
  """
  found = [run["membership"]["attacks"][name][key] for run in arm]
  if not all(found):
    raise ValueError(f"{key} of {name} is not resolved in every seed")
  return [value[0] for value in found]


def rate(arm: Arm, name: str, key: str) -> str:
  """A rate over seeds in words, also where it is not resolved."""
  found = [run["membership"]["attacks"][name][key] for run in arm]
  if not all(found):
    return "not resolvable"
  return shares([value[0] for value in found])


def _frechet(arm: Arm, of: str = "frechet") -> list[float]:
  """To held-out images; or `frechet_to_training`, with its copies.

  Raises ValueError where it was not measured.
  """
  found = [run["quality"].get(of) for run in arm]
  if not all(found):
    raise ValueError(
      f"quality has no {of} in every run: nothing was planted, or an older "
      "version measured it; delete quality/ and report/ of those runs and "
      "finish them again"
    )
  return [1000 * value[0] for value in found]


def regurgitates(ddpm: Arm) -> Measured:
  """C1."""
  found, false = _unique(ddpm), _false(ddpm)
  searched = ddpm[0]["extraction"]["searched"]
  return Measured(
    minus(found, false),
    f"{span(found)} of {searched} training images in "
    f"{words.count(ddpm[0]['extraction']['generated'])} generations",
    f"{span(false)} of as many held-out images",
  )


def fewer(few: Arm, many: Arm) -> Measured:
  """S7 by extraction: shares of the members of two training set sizes."""
  shares_of = [
    [
      u / run["extraction"]["searched"]
      for u, run in zip(_unique(a), a, strict=True)
    ]
    for a in (few, many)
  ]
  return Measured(
    minus(*shares_of),
    f"{shares(shares_of[0])} of the training images of the smaller set, "
    f"{shares(shares_of[1])} of the larger",
    f"held-out images {span(_false(few))} and {span(_false(many))}",
  )


def flat(ddpm: Arm) -> Measured:
  """C2."""
  ways = [run["extraction"]["flagged"] for run in ddpm]
  raw, ratio = ([w[k] for w in ways] for k in ("distance", "ratio"))
  return Measured(
    minus(raw, ratio),
    f"of the 100 images that look most extracted, {span(raw)} are held-out "
    f"ones by distance, {span(ratio)} by ratio",
    "50 of 100 if training had left no trace",
  )


def robust(ddpm: Arm, dedup: Arm) -> Measured:
  """C3."""
  gaps, reach, false = [], [], []
  for one, other in zip(ddpm, dedup, strict=True):
    rules = one["extraction"]["rules"], other["extraction"]["rules"]
    gaps.append(
      min(float(a["unique"] - b["unique"]) for a, b in zip(*rules, strict=True))
    )
    reach += [a["unique"] for a in rules[0]]
    false += [a["held_out"] for a in rules[0]]
  return Measured(
    gaps,
    f"{span(reach)} images over nine rules and all seeds",
    f"{span(false)} held-out images over the same",
  )


def copies(ddpm: Arm) -> Measured:
  """C4."""
  values, pooled = [], {}
  for run in ddpm:
    planted = {int(k): v for k, v in run["extraction"]["planted"].items()}
    for k, (found, of) in planted.items():
      kept = pooled.setdefault(k, [0, 0])
      kept[0] += found
      kept[1] += of
    often = np.sum([v for k, v in planted.items() if k >= 10], axis=0)
    seldom = np.sum([v for k, v in planted.items() if k <= 2], axis=0)
    values.append(float(often[0] / often[1] - seldom[0] / seldom[1]))
  counts = ", ".join(
    f"{k} times: {found} of {of}" for k, (found, of) in sorted(pooled.items())
  )
  return Measured(
    values,
    f"found of those in training {counts}",
    f"{span(_false(ddpm))} held-out images found",
  )


def dedup(ddpm: Arm, dedup: Arm) -> Measured:
  """C5, that it helps."""
  before, after = _unique(ddpm), _unique(dedup)
  return Measured(
    minus(before, after),
    f"{span(before)} images before, {span(after)} after",
    f"held-out: {span(_false(ddpm))} before, {span(_false(dedup))} after",
  )


def dedup_leaves(dedup: Arm) -> Measured:
  """C5, that it does not end extraction."""
  found, false = _unique(dedup), _false(dedup)
  return Measured(
    minus(found, false),
    f"{span(found)} training images",
    f"{span(false)} held-out images",
  )


def dedup_once(ddpm: Arm, dedup: Arm) -> Measured:
  """C5, what it does to images that stand in training once."""
  before, after = (_attack(arm, "loss", "auc") for arm in (ddpm, dedup))
  return Measured(
    minus(after, before),
    f"AUC {span(before, '.3f')} before, {span(after, '.3f')} after",
    "0.5 for images that were not trained on",
  )


def lira(shadows: Arm) -> Measured:
  """C6."""
  lira, loss = (_attack(shadows, k, "tpr@0.01") for k in ("lira", "loss"))
  strict = (rate(shadows, k, "tpr@0.001") for k in ("lira", "loss"))
  return Measured(
    minus(lira, loss),
    f"LiRA {shares(lira)}, threshold {shares(loss)}; at 0.1% "
    + " and ".join(strict),
    "1% of non-members by construction",
  )


def middle(shadows: Arm) -> Measured:
  """C7; the time is chosen on the other seeds."""
  sweeps = [run["membership"]["attacks"]["lira"]["sweep"] for run in shadows]
  times = sorted(sweeps[0], key=int)
  table = np.array([[sweep[t][1] for t in times] for sweep in sweeps])
  inside = table[:, 1:-1]
  others = inside.sum(axis=0) - inside if len(inside) > 1 else inside
  at = np.argmax(others, axis=1)
  best = inside[np.arange(len(inside)), at]
  ends = np.maximum(table[:, 0], table[:, -1])
  told = ", ".join(
    f"t = {t}: {words.share(v)}"
    for t, v in zip(times, table.mean(axis=0), strict=True)
  )
  return Measured(minus(best, ends), told, "1% of non-members")


def averaging(shadows: Arm) -> Measured:
  """C8."""
  draws = [run["membership"]["attacks"]["lira"]["by_draws"] for run in shadows]
  counts = sorted(draws[0], key=int)
  one, many = ([d[k][1] for d in draws] for k in (counts[0], counts[-1]))
  return Measured(
    minus(many, one),
    ", ".join(
      f"{words.several(int(k), 'draw')}: "
      f"{words.share(float(np.mean([d[k][1] for d in draws])))}"
      for k in counts
    ),
    "1% of non-members",
  )


def longer(ddpm: Arm, short: Arm) -> Measured:
  """C9."""
  late, soon = (_attack(arm, "loss", "auc") for arm in (ddpm, short))
  return Measured(
    minus(late, soon),
    f"AUC {span(soon, '.3f')} after 500 steps, {span(late, '.3f')} after "
    f"4,000; reproduced {span(_unique(short))} and {span(_unique(ddpm))}",
    f"held-out images {span(_false(short))} and {span(_false(ddpm))}",
  )


def better(ddpm: Arm, short: Arm) -> Measured:
  """C9, the quality of those models."""
  late, soon = _frechet(ddpm), _frechet(short)
  return Measured(
    minus(soon, late),
    f"Fréchet distance to held-out images {span(soon, '.1f')} and "
    f"{span(late, '.1f')} thousandths",
    "members to held-out images "
    f"{1000 * np.mean([r['quality']['floor'][0] for r in ddpm]):.1f}",
  )


def outliers(shadows: Arm) -> Measured:
  """C10."""
  rho = [run["membership"]["isolation"] for run in shadows]
  return Measured(
    [float(r) for r in rho],
    f"rank correlation {span(rho, '.2f')}",
    "0 where scores do not depend on the image",
  )


def halves(shadows: Arm) -> Measured:
  """C11."""
  seen, unseen = (
    [run["inpaint"][k][0] for run in shadows] for k in ("seen", "not_seen")
  )
  return Measured(
    minus(unseen, seen),
    f"distance {span(seen, '.3f')} where the model saw the image",
    f"{span(unseen, '.3f')} where it did not",
  )


def gans(equal: Arm, gan: Arm) -> Measured:
  """C12a and C12b; undecided where the GANs are the worse models."""
  ours, theirs = _unique(equal), _unique(gan)
  learnt = [_frechet(arm, "frechet_to_training") for arm in (equal, gan)]
  beside = [_frechet(arm) for arm in (equal, gan)]
  gap = stats.student(minus(learnt[1], learnt[0]))
  worse = gap.low is not None and gap.low > 0
  return Measured(
    minus(ours, theirs),
    f"diffusion {span(ours)}, GAN {span(theirs)}; Fréchet distances to the "
    f"training set with its copies {span(learnt[0], '.1f')} and "
    f"{span(learnt[1], '.1f')} thousandths, to held-out images "
    f"{span(beside[0], '.1f')} and {span(beside[1], '.1f')}",
    f"held-out images {span(_false(equal))} and {span(_false(gan))}",
    "the GANs are the worse models" if worse else None,
  )


def overlap(ddpm: Arm, gan: Arm) -> Measured:
  """C13; undecided with fewer than 20 images of a model."""
  values, common, expected = [], [], []
  for one, other in zip(ddpm, gan, strict=True):
    a, b = one["extraction"]["copies"], other["extraction"]["copies"]
    both = set(a) & set(b)
    chance = 0.0
    for k, (found, of) in one["extraction"]["planted"].items():
      chance += found * other["extraction"]["planted"][k][0] / of
    values.append(len(both) - chance)
    common.append(len(both))
    expected.append(chance)
  few = min(np.mean(_unique(ddpm)), np.mean(_unique(gan))) < 20
  return Measured(
    [float(v) for v in values],
    f"{span(common)} images in common",
    f"{np.mean(expected):.3g} expected among images with as many copies",
    "fewer than 20 images of a model to compare" if few else None,
  )


def prompts(prompts: Arm) -> Measured:
  """C14."""
  planted, others = (
    [run["prompts"][k] for run in prompts] for k in ("planted", "ordinary")
  )
  flagged, false = ([x[0] / x[1] for x in part] for part in (planted, others))
  precise = [
    p[0] / (p[0] + o[0]) if p[0] + o[0] else 0.0
    for p, o in zip(planted, others, strict=True)
  ]
  return Measured(
    minus(flagged, false),
    f"flagged {shares(flagged)} of planted prompts; of the flagged "
    f"{shares(precise)} were planted",
    f"flagged {shares(false)} of other prompts",
  )


def canaries(canaries: Arm) -> Measured:
  """C15."""
  means = [run["membership"]["canaries"]["noise"]["mean"] for run in canaries]
  most = canaries[0]["membership"]["canaries"]["noise"]["most"]
  told = ", ".join(
    f"{k} times: {np.mean([m[k] for m in means]):.1f}"
    for k in sorted(means[0], key=int)
    if k != "0"
  )
  return Measured(
    [float(m["2"] - m["0"]) for m in means],
    f"exposure of noise inserted {told}; at most {most:g}",
    f"never inserted: {np.mean([m['0'] for m in means]):.1f}",
  )


def private(short: Arm, private: Arm) -> Measured:
  """C16."""
  plain, noisy = _frechet(short), _frechet(private)
  auc = [_attack(arm, "loss", "auc") for arm in (short, private)]
  return Measured(
    minus(noisy, plain),
    f"Fréchet distance {span(plain, '.0f')} without, {span(noisy, '.0f')} with "
    "DP-SGD, in thousandths",
    f"AUC {span(auc[0], '.3f')} without, {span(auc[1], '.3f')} with",
  )


def classes(ddpm: Arm, classes: Arm) -> Measured:
  """C17."""
  without, given = (_attack(arm, "loss", "auc") for arm in (ddpm, classes))
  return Measured(
    minus(given, without),
    f"AUC {span(without, '.3f')} without classes, {span(given, '.3f')} with; "
    f"images reproduced {span(_unique(ddpm))} and {span(_unique(classes))}",
    f"held-out images {span(_false(ddpm))} and {span(_false(classes))}",
  )

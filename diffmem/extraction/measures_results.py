# SPDX-License-Identifier: Apache-2.0
"""What the measures say: numbers of each seed, and claims of papers.

A claim holds where it holds in every seed, fails where its opposite does, and
is open otherwise; a few seeds are no test, so none is called one.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from diffmem.arrays import Float
from diffmem.extraction import divergence

Pieces = Sequence[Mapping[str, np.ndarray]]  # one a seed


def summary(
  labels: Mapping[str, Pieces],
  sizes: Mapping[int, Pieces],
  measures: Mapping,
  *,
  dimensions: int,
  seed: int,
) -> dict:
  """The contents of results.json."""
  rng = np.random.default_rng(seed)
  ratio, resamples = measures["ratio"], measures["bootstrap"]
  found = {
    "labels": {
      kind: _labelled(pieces, labels["none"], measures, dimensions, rng)
      for kind, pieces in labels.items()
    },
    "sizes": [
      _sized(n, pieces, ratio, resamples, rng) for n, pieces in sizes.items()
    ],
    "seeds": measures["repeats"],
    "generated": measures["generated"],
    "blur": measures["labels"]["blur"],
    "members": measures["labels"]["members"],
    "ratio": ratio,
  }
  return found | {"claims": claims(found)}


def _labelled(
  pieces: Pieces,
  plain: Pieces,
  measures: Mapping,
  dimensions: int,
  rng: np.random.Generator,
) -> dict:
  """Of one kind of labels, against the model without; bits a dimension."""
  found: dict = {"copies": _shares(pieces, "ratios", measures["ratio"])}
  for name in ("members", "held_out"):
    if name not in pieces[0]:
      found[name] = found[f"{name}_bound"] = None
      continue
    pairs = list(zip(pieces, plain, strict=True))
    found[name] = _seeds(
      [divergence.difference(p[name], q[name], dimensions) for p, q in pairs],
      measures["bootstrap"],
      rng,
    )
    key = f"{name}_bound"
    found[key] = _seeds(
      [p[key] - q[key] for p, q in pairs], measures["bootstrap"], rng
    )
  return found


def _sized(
  n: int,
  pieces: Pieces,
  ratio: float,
  resamples: int,
  rng: np.random.Generator,
) -> dict:
  """Of one training set size: copies, their times, and agreement."""
  shares = [(p["shares_0"] + p["shares_1"]) / 2 for p in pieces]
  return {
    "n": n,
    "copies": [float(share[-1]) for share in shares],
    "steps": pieces[0]["steps"],
    "curve": [share.tolist() for share in shares],
    **{
      key: _seeds([p[key] for p in pieces], resamples, rng)
      for key in ("same_noise", "shuffled", "own", "other")
    },
  }


def _shares(pieces: Pieces, key: str, ratio: float) -> list[float]:
  return [float((p[key] < ratio).mean()) for p in pieces]


def _seeds(
  values: Sequence[Float[np.ndarray, " n"]],
  resamples: int,
  rng: np.random.Generator,
) -> list[list[float]]:
  """[mean, low, high] of each seed; 95%, images resampled."""
  found = []
  for x in values:
    rows = rng.integers(len(x), size=(resamples, len(x)))
    low, high = np.quantile(x[rows].mean(1), [0.025, 0.975])
    found.append([float(x.mean()), float(low), float(high)])
  return found


def claims(found: Mapping) -> list[dict]:
  """[{"claim", "source", "holds": True, False or None, "says"}]."""
  labels, sizes = found["labels"], found["sizes"]
  told = []
  for kind in labels:
    if kind == "none":
      continue
    gaps = [x[0] for x in labels[kind]["members"]]
    told.append(
      _claim(
        f"{kind.capitalize()} labels bring a model's density closer to its "
        "training images",
        "Chen et al. 2025, theorem 1"
        if kind == "informative"
        else "Gu et al. 2023",
        [g < 0 for g in gaps],
        "difference of divergences on training images "
        f"{_range(gaps)} bits a pixel",
      )
    )
    if labels[kind]["held_out"] is not None:
      others = [x[0] for x in labels[kind]["held_out"]]
      told.append(
        _claim(
          f"{kind.capitalize()} labels do so more than for images that it "
          "never saw",
          "the control of the claim above",
          [g < h for g, h in zip(gaps, others, strict=True)],
          f"on held-out images {_range(others)}",
        )
      )
    plain, copies = (labels[k]["copies"] for k in ("none", kind))
    told.append(
      _claim(
        f"{kind.capitalize()} labels raise the share of copies",
        "Gu et al. 2023",
        [a > b for a, b in zip(copies, plain, strict=True)],
        f"{_range(copies)} against {_range(plain)} without labels",
      )
    )
  if len(sizes) > 1:
    told += _of_sizes(sizes)
  return told


def _of_sizes(sizes: Sequence[Mapping]) -> list[dict]:
  first, last = sizes[0], sizes[-1]
  seeds = range(len(first["copies"]))
  copies = np.array([s["copies"] for s in sizes])
  agree = {k: [x[0] for x in last[k]] for k in ("same_noise", "shuffled")}
  small = {k: [x[0] for x in first[k]] for k in ("same_noise", "own", "other")}
  onsets = np.array([[_onset(s, i) for i in seeds] for s in sizes])
  return [
    _claim(
      "The share of copies falls as the training set grows",
      "Gu et al. 2023; Yoon et al. 2023",
      [
        bool((np.diff(copies[:, i]) <= 0).all())
        and bool(copies[-1, i] < copies[0, i])
        for i in seeds
      ],
      ", ".join(f"{s['n']} images: {_range(s['copies'])}" for s in sizes),
    ),
    _claim(
      "Copies come later in training for larger sets",
      "Bonnaire et al. 2025",
      [
        bool((onsets[1:, i] >= onsets[:-1, i]).all())
        and bool(onsets[-1, i] > onsets[0, i])
        for i in seeds
      ],
      "; ".join(
        f"{s['n']} images: one in ten are copies "
        + (
          "never"
          if np.isinf(o).all()
          else f"from step {_range(o.tolist(), '.0f')}"
        )
        for s, o in zip(sizes, onsets, strict=True)
      ),
    ),
    _claim(
      f"Trained on few images ({first['n']}), two models copy each its own",
      "Kadkhodaie et al. 2024",
      [
        a > b and a > c
        for a, b, c in zip(
          small["own"], small["same_noise"], small["other"], strict=True
        )
      ],
      f"cosine with the nearest own image {_range(small['own'])}, with the "
      f"nearest of the other half {_range(small['other'])}, with each other "
      f"{_range(small['same_noise'])}",
    ),
    _claim(
      f"Trained on many ({last['n']}), two models of disjoint halves agree "
      "better from the same noise",
      "Kadkhodaie et al. 2024",
      [
        a > b
        for a, b in zip(agree["same_noise"], small["same_noise"], strict=True)
      ],
      f"cosine {_range(agree['same_noise'])}, with {first['n']} images "
      f"{_range(small['same_noise'])}; from different noise "
      f"{_range(agree['shuffled'])}",
    ),
  ]


def _onset(size: Mapping, seed: int, share: float = 0.1) -> float:
  """The first step at which that share are copies; infinite if never."""
  reached = np.flatnonzero(np.array(size["curve"][seed]) >= share)
  return float(size["steps"][reached[0]]) if len(reached) else np.inf


def _claim(claim: str, source: str, seeds: Sequence[bool], says: str) -> dict:
  holds = True if all(seeds) else None if any(seeds) else False
  return {
    "claim": claim,
    "source": source,
    "holds": holds,
    "in_seeds": [int(sum(seeds)), len(seeds)],
    "says": says,
  }


def _range(values: Sequence[float], form: str = ".3f") -> str:
  low, high = (
    f"{x:{form}}".replace("-", "−") for x in (min(values), max(values))
  )
  return low if low == high else f"{low} to {high}"

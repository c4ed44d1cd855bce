# SPDX-License-Identifier: Apache-2.0
"""Figures of membership; each returns markup, or None with nothing to draw.

With more attacks than colours a few are drawn in colour, the same ones in
every figure, and the rest as thin grey lines.
"""

from collections.abc import Callable

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from diffmem.report import checks, claims
from diffmem.report.svg import (
  DASHES,
  HELD,
  INK,
  MEMBER,
  MORE,
  MUTED,
  legend,
  short,
  svg,
)

COLOURS = (MEMBER, HELD, *MORE)
GUESSING = (0, (2, 2))
LABELS = {"auc": "AUC", claims.AT: "recognised at 1% false alarms"}


def highlighted(membership: dict) -> list[str]:
  """The attack of the first sentence, the loss, then those of highest TPR."""
  attacks = claims.scored(membership)
  first = [claims.leading(membership), "loss" if "loss" in attacks else None]
  rest = sorted(attacks, key=lambda k: -_height(attacks[k]))
  order = dict.fromkeys(n for n in [*first, *rest] if n is not None)
  return list(order)[: len(COLOURS)]


def _height(attack: dict) -> float:
  point = attack.get(claims.AT)
  return point[0] if point else attack["auc"][0] - 1


def _style(name: str, bright: list[str]) -> dict:
  """How the line of an attack is drawn."""
  if name not in bright:
    return {"color": MUTED, "lw": 0.7, "alpha": 0.75, "zorder": 1.5}
  i = bright.index(name)
  return {
    "color": COLOURS[i],
    "ls": DASHES[i % len(DASHES)],
    "lw": 1.7,
    "label": short(name),
  }


def _percent(axis) -> None:
  axis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}%"))
  axis.set_minor_formatter(NullFormatter())


def roc(
  curves: dict[str, tuple[np.ndarray, np.ndarray]], membership: dict
) -> Markup | None:
  """Exact ROC of each attack on logarithmic axes, with chance."""
  curves = {k: v for k, v in curves.items() if len(v[0]) > 1}
  if not curves:
    return None
  counts = [membership[k].get("non_members") for k in curves]
  smallest = 1 / max([*(n for n in counts if n), 100])
  floor = min(smallest, 0.01) / 2
  bright = highlighted(membership) or list(curves)[: len(COLOURS)]

  def draw(ax: Axes) -> None:
    line = np.geomspace(floor, 1, 50)
    ax.plot(line, line, color=MUTED, lw=1, ls=GUESSING, label="guessing")
    order = [n for n in bright if n in curves]
    for name in [*order, *(n for n in curves if n not in bright)]:
      fpr, tpr = (np.maximum(x, floor) for x in _thinned(*curves[name]))
      style = _style(name, bright)
      ax.plot(fpr, tpr, drawstyle="steps-post", **style)
      for x in (0.01, 0.001) if name in bright else ():
        point = membership[name].get(f"tpr@{x:g}")
        if point:
          y, low, high = np.maximum(point, floor)
          bars = [[y - low], [high - y]]
          ax.errorbar(
            x, y, bars, color=style["color"], fmt="o", ms=3.5, capsize=2.5, lw=1
          )
    if floor < smallest:
      ax.axvspan(floor, smallest, color=MUTED, alpha=0.12, lw=0)
    ax.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1.1))
    for axis in (ax.xaxis, ax.yaxis):
      _percent(axis)
    ax.set_aspect("equal", adjustable="box")
    ax.set(
      xlabel="non-members called members (FPR)",
      ylabel="members recognised (TPR)",
    )
    legend(ax, columns=2)

  return svg(
    "roc",
    "Share of members recognised against share of false alarms, on "
    "logarithmic axes, for: " + ", ".join(curves),
    draw,
    size=(4.7, 4.9),
  )


def _thinned(fpr: np.ndarray, tpr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Corners of the steps that are apart on the page; both ends stay."""
  first = max(int(np.searchsorted(fpr, 0, side="right")) - 1, 0)
  fpr, tpr = fpr[first:], tpr[first:]
  keep = np.ones(len(fpr), bool)
  keep[1:-1] = (np.diff(fpr)[:-1] > 0) | (np.diff(fpr)[1:] > 0)
  fpr, tpr = fpr[keep], tpr[keep]
  if len(fpr) <= 400:
    return fpr, tpr
  bins = np.floor(np.log(np.maximum(fpr, 1e-9)) * 24)
  last = np.r_[bins[1:] != bins[:-1], True]
  last[0] = True
  last |= np.r_[True, last[:-1]]
  return fpr[last], tpr[last]


def _lines(
  name: str,
  summary: str,
  lines: dict[str, tuple[list, list]],
  membership: dict,
  finish: Callable[[Axes, list], None],
) -> Markup:
  """One line an attack: values with their intervals at places x."""
  bright = highlighted(membership)

  def draw(ax: Axes) -> None:
    order = [n for n in bright if n in lines]
    for attack in [*order, *(n for n in lines if n not in order)]:
      x, values = lines[attack]
      value, low, high = np.array(values, float).T
      style = _style(attack, bright)
      if attack in bright:
        bars = [value - low, high - value]
        ax.errorbar(
          x, value, bars, **style, marker="o", ms=3.5, capsize=2, elinewidth=0.8
        )
      else:
        ax.plot(x, value, **style)
    finish(ax, sorted({x for at, _ in lines.values() for x in at}))
    legend(ax, columns=2)

  return svg(name, summary, draw, size=(4.7, 3.5))


def _at(ax: Axes, places: list, label: str) -> None:
  """Ticks where the values are, on a logarithmic axis where that can be."""
  if min(places) > 0 and len(places) > 1:
    ax.set_xscale("log")
  shown = places
  while len(shown) > 9:
    shown = shown[::2]
  ax.set_xticks(shown, [f"{x:,.6g}" for x in shown])
  ax.xaxis.set_minor_locator(NullLocator())
  ax.set_xlabel(label)


def _height_of(ax: Axes, what: str) -> None:
  ax.set_ylabel(LABELS[what])
  if what == "auc":
    ax.axhline(0.5, color=MUTED, lw=1, ls=GUESSING, label="guessing")
  else:
    ax.axhline(0.01, color=MUTED, lw=1, ls=GUESSING, label="guessing")
    ax.set_ylim(bottom=0)
    _percent(ax.yaxis)


def sweep(membership: dict, what: str) -> Markup | None:
  """AUC or TPR, `what`, of every attack at each noise level t."""
  lines = {}
  for name, attack in claims.scored(membership).items():
    entries = [e for e in claims.swept(attack) if _three(e.get(what))]
    if len(entries) > 1:
      lines[name] = ([e["t"] for e in entries], [e[what] for e in entries])
  if not lines:
    return None

  def finish(ax: Axes, places: list) -> None:
    _at(ax, places, "noise level t")
    _height_of(ax, what)

  return _lines(
    f"sweep-{'auc' if what == 'auc' else 'tpr'}",
    f"{LABELS[what]} against the noise level t, for: " + ", ".join(lines),
    lines,
    membership,
    finish,
  )


def draws(membership: dict) -> Markup | None:
  """TPR against the noise draws that are averaged, all augmentations."""
  lines = {}
  for name, attack in claims.scored(membership).items():
    entries = attack.get("by_draws") or []
    most = max((len(e.get("augment") or ()) for e in entries), default=0)
    entries = [
      e
      for e in entries
      if len(e.get("augment") or ()) == most and _three(e.get(claims.AT))
    ]
    if len(entries) > 1:
      lines[name] = (
        [e["draws"] for e in entries],
        [e[claims.AT] for e in entries],
      )
  if not lines:
    return None

  def finish(ax: Axes, places: list) -> None:
    _at(ax, places, "noise draws averaged")
    _height_of(ax, claims.AT)

  return _lines(
    "draws",
    "Members recognised at 1% false alarms against the noise draws averaged, "
    "for: " + ", ".join(lines),
    lines,
    membership,
    finish,
  )


def by_step(found: dict) -> Markup | None:
  """AUC and TPR of the loss attack against the training step."""
  steps = found.get("steps") or []
  if len(steps) < 2:
    return None

  def draw(ax: Axes) -> None:
    x = [s["step"] for s in steps]
    for key, label, colour, dash in (
      ("auc", "AUC", MEMBER, DASHES[0]),
      (claims.AT, "recognised at 1% false alarms", HELD, DASHES[1]),
    ):
      there = [i for i, s in enumerate(steps) if _three(s.get(key))]
      if not there:
        continue
      value, low, high = np.array([steps[i][key] for i in there], float).T
      ax.errorbar(
        [x[i] for i in there],
        value,
        [value - low, high - value],
        color=colour,
        ls=dash,
        label=label,
        marker="o",
        ms=3.5,
        capsize=2,
      )
    ax.set_ylim(0, 1.05)
    ax.set_xticks(x[:: max(1, len(x) // 6)])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    ax.set(xlabel="training step")
    legend(ax, columns=2)

  return svg(
    "by-step",
    f"AUC and recognition by the loss from step {steps[0]['step']:,} to "
    f"{steps[-1]['step']:,}",
    draw,
    size=(4.7, 3.0),
  )


def losses(found: dict) -> Markup | None:
  """Mean loss of members and of held-out images against the step."""
  steps = [
    s
    for s in found.get("steps") or []
    if s.get("loss_of_non_members") and s.get("loss_of_members")
  ]
  if len(steps) < 2:
    return None

  def draw(ax: Axes) -> None:
    x = [s["step"] for s in steps]
    for key, label, colour, dash in (
      ("loss_of_members", "members", MEMBER, DASHES[0]),
      ("loss_of_non_members", "held-out images", HELD, DASHES[1]),
    ):
      ax.plot(
        x,
        [s[key] for s in steps],
        color=colour,
        ls=dash,
        label=label,
        marker="o",
        ms=3.5,
      )
    ax.set_ylim(bottom=0)
    ax.set_xticks(x[:: max(1, len(x) // 6)])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    ax.set(xlabel="training step", ylabel=f"mean loss at t = {found.get('t')}")
    legend(ax, columns=2)

  return svg(
    "by-step-loss",
    "Mean loss of members and of held-out images against the training step",
    draw,
    size=(4.7, 3.0),
  )


def exposure(found: dict | None) -> Markup | None:
  """Exposure of canaries against how often they were inserted."""
  kinds = checks.kinds_of(found)
  if not kinds:
    return None
  places = sorted({int(c) for one in kinds.values() for c in one["by_copies"]})

  def draw(ax: Axes) -> None:
    most = max(one["most"] for one in kinds.values())
    ax.axhline(most, color=INK, lw=0.8)
    ax.axhline(1.44, color=MUTED, lw=1, ls=GUESSING, label="by chance, 1.44")
    for i, (kind, one) in enumerate(kinds.items()):
      by = sorted((int(k), v) for k, v in one["by_copies"].items())
      x = np.array([places.index(c) for c, _ in by], float)
      colour, aside = COLOURS[i % len(COLOURS)], 0.12 * (i - len(kinds) / 2)
      for at, (_, v) in zip(x + aside, by, strict=True):
        values = v.get("values") or []
        ax.plot([at] * len(values), values, "o", color=colour, ms=3, alpha=0.45)
      ax.plot(
        x + aside,
        [v["mean"] for _, v in by],
        color=colour,
        ls=DASHES[i % len(DASHES)],
        label=f"{short(kind)}, mean",
      )
    ax.set_xticks(range(len(places)), [str(c) for c in places])
    ax.set_ylim(-0.3, 1.08 * most)
    ax.set(xlabel="times inserted", ylabel="exposure, bits")
    legend(ax, columns=2)

  return svg(
    "exposure",
    "Exposure of canaries against how often they were inserted, for: "
    + ", ".join(kinds),
    draw,
    size=(4.7, 3.2),
  )


def _three(value) -> bool:
  return isinstance(value, list | tuple) and len(value) == 3

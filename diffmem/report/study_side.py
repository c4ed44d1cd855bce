# SPDX-License-Identifier: Apache-2.0
"""How the claims of SIDE, and of what it builds on, are read off a study.

As `study_reads`, but that one run holds all seeds: pairs of twins of `side`,
repeats of `measures`.
"""

from collections.abc import Callable

import numpy as np

from diffmem.report import words
from diffmem.report.study_reads import Arm, Measured, minus, shares, span


def guided(way: str, base: str) -> Callable[[Arm], Measured]:
  """S1 to S3: guidance against `base`, by one way of counting."""

  def read(side: Arm) -> Measured:
    arms = side[0]["side"][way]
    ours, plain = arms["scratch"], arms[base]
    return Measured(
      minus(ours["net"], plain["net"]),
      f"SIDE {shares(ours['own'])}, against {shares(plain['own'])}",
      f"for the half that was not trained on {shares(ours['other'])} and "
      f"{shares(plain['other'])}",
    )

  return read


def labels(kind: str) -> Callable[[Arm], Measured]:
  """S4 to S6: labels of one kind."""

  def read(measures: Arm) -> Measured:
    labels = measures[0]["measures"]["labels"]
    found, held_out = labels[kind]["members"], labels[kind]["held_out"]
    copies, none = labels[kind]["copies"], labels["none"]["copies"]
    return Measured(
      [-float(v) for v in found],
      f"{span(found, '.2f')} bits a pixel; copies {shares(copies)}",
      (f"held-out images {span(held_out, '.2f')}; " if held_out else "")
      + f"copies without labels {shares(none)}",
    )

  return read


def sizes(measures: Arm) -> Measured:
  """S7."""
  sizes = measures[0]["measures"]["sizes"]
  order = sorted(sizes, key=int)
  few, many = sizes[order[0]]["copies"], sizes[order[-1]]["copies"]
  told = ", ".join(
    f"{n} images: {words.share(np.mean(sizes[n]['copies']))}" for n in order
  )
  natural = ", ".join(words.share(sizes[n]["natural"]) for n in order)
  return Measured(
    minus(few, many), told, f"other real images by the same rule: {natural}"
  )


def time(measures: Arm) -> Measured:
  """S8."""
  sizes = measures[0]["measures"]["sizes"]
  least = sizes[min(sizes, key=int)]
  curve = np.array(least["curve"])
  told = ", ".join(
    f"step {s}: {words.share(v)}"
    for s, v in zip(least["steps"], curve.mean(axis=0), strict=True)
  )
  return Measured(
    minus(curve[:, -1], curve[:, 0]),
    told,
    f"other real images by the same rule: {words.share(least['natural'])}",
  )

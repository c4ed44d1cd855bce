# SPDX-License-Identifier: Apache-2.0
"""Numbers as words: how the page writes counts, shares and intervals."""

from collections.abc import Sequence
from typing import Any

import scipy.stats


def count(n: int | float) -> str:
  """4096 -> "4,096"."""
  return f"{int(n):,}"


def several(n: int | float, one: str, many: str | None = None) -> str:
  """(1, "image") -> "1 image"; (4, "image") -> "4 images"."""
  return f"{count(n)} {one if n == 1 else many or one + 's'}"


def share(x: int | float) -> str:
  """0.0367 -> "3.7%"; small shares keep two digits that matter."""
  percent = 100 * x
  if percent == 0:
    return "0%"
  if percent < 0.1:
    return f"{percent:.2g}%"
  return f"{percent:.1f}%".replace(".0%", "%")


def interval(ends: Sequence[int | float] | None, how=share) -> str:
  """[0.02, 0.05] -> "2% to 5%"."""
  if ends is None:
    return ""
  return f"{how(ends[0])} to {how(ends[1])}"


def decimal(x: int | float) -> str:
  """Three decimals."""
  return f"{x:.3f}"


def signed(x: int | float, form: str = ".2f") -> str:
  """-0.25 -> "−0.25", with a minus that is one."""
  return f"{x:{form}}".replace("-", "−")


def distance(x: int | float) -> str:
  """Four decimals; exactly 0 says so."""
  return "0" if x == 0 else f"{x:.4f}"


def seconds(s: int | float | None) -> str:
  """97.1 -> "1 min 37 s"."""
  if s is None:
    return ""
  if s < 60:
    return f"{s:.1f} s"
  whole = round(s)
  if whole < 3600:
    return f"{whole // 60} min {whole % 60} s"
  return f"{whole // 3600} h {whole % 3600 // 60} min"


def probability(p: int | float) -> str:
  """0.0312 -> "0.031"; tiny ones as "below 10⁻¹²"."""
  if p >= 0.0001:
    return f"{p:.2g}"
  power = 0
  while p <= 0.1**power and power < 300:
    power += 1
  signs = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
  return "below 10⁻" + str(power - 1).translate(signs)


def exact_interval(k: int, n: int) -> tuple[float, float] | None:
  """95% interval of k in n (Clopper and Pearson 1934)."""
  if n == 0:
    return None
  ends = scipy.stats.binomtest(k, n).proportion_ci(method="exact")
  return float(ends.low), float(ends.high)


def joined(parts: Sequence[Any]) -> str:
  """["a", "b", "c"] -> "a, b and c"."""
  parts = [str(part) for part in parts]
  if len(parts) < 2:
    return "".join(parts)
  return f"{', '.join(parts[:-1])} and {parts[-1]}"

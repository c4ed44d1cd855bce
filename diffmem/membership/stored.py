# SPDX-License-Identifier: Apache-2.0
"""Which signals a config asks for, and those of generated images.

Attacks that read the same signal with the same options share what is stored
of it; with other options it has a name of its own.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmem import workdir
from diffmem.arrays import Float
from diffmem.denoiser import Denoiser
from diffmem.membership import (
  ATTACKS,
  GAN_ATTACKS,
  check_attack,
  protocol,
  signals,
)

# Whose values attacks with shadow models, and earlier checkpoints, go by.
BASES = ("loss", "discriminator")


@dataclasses.dataclass(frozen=True)
class Wanted:
  """One attack of a config: its signal under its name on disk, all options.

  times: the t of the signal. of_signal, of_scores, of_fit: options.
  """

  attack: protocol.Attack
  signal: signals.Signal
  times: tuple[int, ...]
  of_signal: dict[str, Any]
  of_scores: dict[str, Any]
  of_fit: dict[str, Any]

  @property
  def name(self) -> str:
    """Of the attack."""
    return self.attack.name

  @property
  def options(self) -> dict[str, Any]:
    """All of them, by name."""
    return {**self.of_signal, **self.of_scores, **self.of_fit}

  @property
  def queries(self) -> int:
    """Network calls an image, all times together."""
    return int(self.attack.queries(t=self.times, **self.of_signal))

  def scores(self, values: Any, fitted: Any = None) -> Float[np.ndarray, "n t"]:
    """Scores of the signal's values, an array or a store."""
    return protocol.evaluate(
      self.attack, values, fitted=fitted, **self.of_scores
    )

  def columns(self, count: int) -> tuple:
    """A name for each column of scores; all times may make one."""
    if count == len(self.times):
      return self.times
    if count == 1:
      return ("all",)
    raise ValueError(
      f"attack {self.name!r} gave {count} columns of scores for "
      f"{len(self.times)} times: expected one each, or one in all"
    )


def plan(membership: dict, seed: int) -> list[Wanted]:
  """What each of `membership.attacks` wants.

  Every option of an attack stands in its section, `membership.<attack>`; `t`
  may stand there too, in place of `membership.t`.

  Raises:
    ValueError: an attack or option that is not, or that is missing.
  """
  names = tuple(membership["attacks"])
  if not names:
    raise ValueError("membership.attacks is empty: name one, such as 'loss'")
  if len(set(names)) < len(names):
    raise ValueError(f"membership.attacks = {names} names one twice")
  found: list[Wanted] = []
  for name in names:
    found.append(wanted(name, membership, seed, found))
  return found


def wanted(
  name: str, membership: dict, seed: int, before: Sequence[Wanted] = ()
) -> Wanted:
  """What one attack wants; `before` are others whose signals it may share."""
  attack = (ATTACKS | GAN_ATTACKS)[check_attack(name)]
  given = dict(membership.get(name) or {})
  times = tuple(given.pop("t", None) or membership["t"])
  if len(set(times)) < len(times) or not times:
    raise ValueError(f"t = {times} of {name}: give one or more distinct times")
  needed = set(attack.defaults) - {"seed"}
  for what, keys in (
    ("lacks", needed - set(given)),
    ("has the unknown", set(given) - needed),
  ):
    if keys:
      raise ValueError(
        f"membership.{name} {what} {', '.join(sorted(keys))}: expected "
        f"{', '.join(sorted(needed)) or 'no options'}, and t if others"
      )
  of_signal, of_scores, of_fit = attack.options(**given, seed=seed)
  signal = attack.signal
  for other in before:
    if other.attack.signal.name != attack.signal.name:
      continue
    if (other.times, other.of_signal) == (times, of_signal):
      signal = other.signal
      break
    own = f"{attack.signal.name}_{name}"
    signal = dataclasses.replace(attack.signal, name=own)
  return Wanted(attack, signal, times, of_signal, of_scores, of_fit)


def base(membership: dict) -> str:
  """The attack whose values those with shadow models read."""
  named = [name for name in BASES if name in membership["attacks"]]
  return named[-1] if named else BASES[0]


def of_generated(
  root: str | os.PathLike,
  want: Wanted,
  denoiser: Denoiser,
  images: np.ndarray,
  *,
  cond: signals.Cond,
  batch: int,
  weights: str,
  bank: str,
  progress: bool = True,
) -> Any:
  """The signal of generated images; kept, unless it is of others."""
  name = f"{want.signal.name}_generated"
  folder = workdir.path(root) / "membership" / "signals" / "main"
  file = folder / f"{name}.json"
  made_of = workdir.plain(
    {
      "signal": name,
      "t": want.times,
      **want.of_signal,
      "batch": batch,
      "images": len(images),
      "bank": bank,
      "weights": weights,
    }
  )
  if file.exists() and workdir.read_json(file) != made_of:
    (folder / name).rmtree(missing_ok=True)  # few: made anew in no time
  folder.mkdir(parents=True, exist_ok=True)
  workdir.write_json(file, made_of)
  return signals.compute(
    denoiser,
    images,
    want.signal,
    t=want.times,
    batch=batch,
    cond=cond,
    path=folder / name,
    progress=progress,
    **want.of_signal,
  )

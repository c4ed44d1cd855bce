# SPDX-License-Identifier: Apache-2.0
"""What an attack without shadow models is: a signal, and a score of it.

  signals.compute(denoiser, images, attack.signal, t=...) -> values [n t ...]
  attack.scores(values) -> [n t], higher means member

An attack is one file with one `ATTACK`. Two attacks that read the same signal
with the same options share what is stored of it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffmem import store
from diffmem.arrays import AnyArray, Bool, Float, Int
from diffmem.denoiser import Denoiser
from diffmem.membership import signals


@dataclasses.dataclass(frozen=True)
class Attack:
  """A membership attack on one model.

  Attributes:
    name: as it is asked for.
    source: the paper.
    signal: what it needs of the model.
    scores: scores(values [n t ...], **options) -> float64 [n t]; higher means
      member. With `fit`, scores(values, fitted, **options).
    defaults: the options of signal, scores and fit by name. `seed` may be
      given to any attack; one that draws nothing ignores it.
    queries: queries(*, t, **signal options) -> network calls an image.
    fit: fit(values, is_member [n], **options) -> whatever scores needs, of
      images whose membership is known; None where nothing is learnt.
    of: "denoiser", or "GAN": what it can be aimed at.
  """

  name: str
  source: str
  signal: signals.Signal
  scores: Callable[..., Float[np.ndarray, "n t"]]
  defaults: Mapping[str, Any]
  queries: Callable[..., int]
  fit: Callable[..., Any] | None = None
  of: str = "denoiser"

  def options(self, **given: Any) -> tuple[dict, dict, dict]:
    """(of the signal, of the scores, of fit): the defaults, changed.

    Raises:
      ValueError: an option that this attack does not have.
    """
    for name in given:
      if name not in self.defaults and name != "seed":
        raise ValueError(
          f"attack {self.name!r} has no option {name!r}: it takes "
          f"{', '.join(self.defaults) or 'none'}"
        )
    every = {**self.defaults, **given}
    takers = [self.signal.options, signals.keywords(self.scores), ()]
    if self.fit is not None:
      takers[2] = signals.keywords(self.fit)
    of_signal, of_scores, of_fit = (
      {name: every[name] for name in names if name in every} for names in takers
    )
    return of_signal, of_scores, of_fit


def evaluate(
  attack: Attack, values: Any, *, fitted: Any = None, **options: Any
) -> Float[np.ndarray, "n t"]:
  """Scores of values [n t ...], an array or a store (read in blocks).

  Args:
    attack: whose scores.
    values: of the attack's signal.
    fitted: what `attack.fit` gave, for an attack that has one.
    **options: those of `attack.scores`.

  Raises:
    ValueError: nothing was fitted, or scores are not finite.
  """
  if attack.fit is not None and fitted is None:
    raise ValueError(
      f"attack {attack.name!r} learns from images whose membership is known: "
      "pass calibration=(images, is_member)"
    )
  args = () if attack.fit is None else (fitted,)
  parts = [values]
  if isinstance(values, store.Store):
    parts = (block for _, block in values.blocks())
  return np.concatenate([attack.scores(v, *args, **options) for v in parts])


def score(
  attack: Attack,
  denoiser: Denoiser,
  images: Any,
  *,
  t: int | Sequence[int] = 100,
  batch: int = 512,
  cond: signals.Cond = None,
  ids: Int[np.ndarray, " n"] | None = None,
  calibration: tuple | None = None,
  progress: bool = False,
  **options: Any,
) -> Float[np.ndarray, " n"] | Float[np.ndarray, "n t"]:
  """Scores of images [n h w c]; [n t] where several t are given.

  Args:
    attack: which.
    denoiser: the model under attack.
    images: uint8, or floats in [-1, 1]; an array, a bank or a store.
    t: schedule index or indices, chosen in advance.
    batch, cond, ids, progress: those of `signals.compute`.
    calibration: (images, is_member) or (images, is_member, cond) for an
      attack that learns; none of them may be among `images`.
    **options: those of the attack, such as seed=0.

  Raises:
    ValueError: an option, or images, that cannot be.
    FloatingPointError: a value is not finite; names the images.
  """
  alone = isinstance(t, int | np.integer)
  of_signal, of_scores, of_fit = attack.options(**options)
  if attack.fit is not None and calibration is None:
    evaluate(attack, None)  # refuses before the model is run
  values = functools.partial(
    signals.compute,
    denoiser,
    signal=attack.signal,
    t=(t,) if alone else tuple(t),
    batch=batch,
    progress=progress,
    **of_signal,
  )
  fitted = None
  if attack.fit is not None and calibration is not None:
    known, is_member, *rest = calibration
    is_member = check_known(is_member, len(known))
    learnt = values(known, cond=rest[0] if rest else None)
    fitted = attack.fit(learnt, is_member, **of_fit)
  found = evaluate(
    attack, values(images, cond=cond, ids=ids), fitted=fitted, **of_scores
  )
  return found[:, 0] if alone else found


def check_known(is_member: AnyArray, n: int) -> Bool[np.ndarray, " n"]:
  """ValueError unless there is one truth an image, and both kinds."""
  is_member = np.asarray(is_member).astype(bool)
  if is_member.shape != (n,):
    raise ValueError(
      f"is_member has shape {is_member.shape} for {n} images: give one each"
    )
  for kind, count in (
    ("members", is_member.sum()),
    ("non-members", (~is_member).sum()),
  ):
    if count < 2:
      raise ValueError(
        f"the calibration part holds {count} {kind}, expected at least 2: "
        "an attack that learns needs both kinds"
      )
  return is_member

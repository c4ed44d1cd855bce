# SPDX-License-Identifier: Apache-2.0
"""What a detector of memorized prompts is; a score a prompt, or condition.

  signals.compute(denoiser, None, detector.signal, cond=..) -> values [p ...]
  detector.scores(values) -> [p], higher means memorized

No image is needed: a prompt, the model, and its answer without the prompt.
A detector is one file with one `DETECTOR`; its times follow from its options.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffmem.arrays import Float, Int
from diffmem.denoiser import Denoiser
from diffmem.diffusion.schedules import Schedule
from diffmem.membership import signals


@dataclasses.dataclass(frozen=True)
class Detector:
  """A detector of memorized prompts.

  Attributes:
    name: as it is asked for.
    source: the paper.
    signal: what it needs of the model, from conditions alone.
    times: times(schedule, **signal options) -> the t of the signal.
    scores: scores(values [p ...]) -> float64 [p]; higher means memorized.
    defaults: the options of the signal by name, without the seed.
    queries: queries(**signal options) -> network calls a prompt; one with and
      without the prompt counts as two.
  """

  name: str
  source: str
  signal: signals.Signal
  times: Callable[..., tuple[int, ...]]
  scores: Callable[..., Float[np.ndarray, " p"]]
  defaults: Mapping[str, Any]
  queries: Callable[..., int]

  def options(self, **given: Any) -> dict[str, Any]:
    """The defaults, changed.

    Raises:
      ValueError: an option that this detector does not have.
    """
    for name in given:
      if name not in self.defaults and name != "seed":
        raise ValueError(
          f"detector {self.name!r} has no option {name!r}: it takes "
          f"{', '.join(self.defaults) or 'none'}"
        )
    return {"seed": 0, **self.defaults, **given}


def score(
  detector: Detector,
  denoiser: Denoiser,
  cond: signals.Cond,
  *,
  batch: int = 512,
  ids: Int[np.ndarray, " p"] | None = None,
  path: str | os.PathLike | None = None,
  progress: bool = False,
  **options: Any,
) -> Float[np.ndarray, " p"]:
  """Scores of conditions [p ...]; higher means memorized.

  Args:
    detector: which.
    denoiser: a conditional model with a null condition.
    cond: class labels, embeddings, or a tree of arrays, the prompt first.
    batch, ids, path, progress: those of `signals.compute`.
    **options: those of the detector, and seed=0.

  Raises:
    ValueError: an option, or conditions, that cannot be.
    FloatingPointError: a value is not finite; names the prompts.
  """
  return detector.scores(
    values(
      detector,
      denoiser,
      cond,
      batch=batch,
      ids=ids,
      path=path,
      progress=progress,
      **options,
    )[:]
  )


def values(
  detector: Detector, denoiser: Denoiser, cond: signals.Cond, **options: Any
) -> Any:
  """What `detector.scores` reads; see `score`."""
  denoiser.require("null_cond", by=f"detector {detector.name!r}")
  of_compute = {
    name: options.pop(name)
    for name in ("batch", "ids", "path", "progress")
    if name in options
  }
  given = detector.options(**options)
  return signals.compute(
    denoiser,
    None,
    detector.signal,
    t=detector.times(denoiser.schedule, **given),
    cond=cond,
    **of_compute,
    **given,
  )


def last(schedule: Schedule, **options: Any) -> tuple[int, ...]:
  """The time of pure noise alone: `times` of detectors of one step."""
  del options
  return (schedule.steps - 1,)

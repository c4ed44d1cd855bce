# SPDX-License-Identifier: Apache-2.0
"""The whole audit as one function.

diffmem.audit(workdir, **config)                       any experiment
diffmem.audit(generations=..., training=...)           somebody's images
diffmem.audit(denoiser=..., images=..., held_out=...)  somebody's model
"""

import os
import sys
import types
from typing import Any

from diffmem.audit.given import DEFAULTS, of_denoiser, of_images
from diffmem.audit.stages import (
  choose_prompts,
  find_neighbours,
  fit_model,
  run,
)

__all__ = [
  "DEFAULTS",
  "choose_prompts",
  "find_neighbours",
  "fit_model",
  "of_denoiser",
  "of_images",
  "run",
]


class _Callable(types.ModuleType):
  """Lets `diffmem.audit(...)` be called, however it was imported."""

  def __call__(
    self, root: str | os.PathLike | None = None, **arguments: Any
  ) -> dict[str, Any]:
    if "generations" in arguments:
      return of_images(root, **arguments)
    if "denoiser" in arguments:
      return of_denoiser(root, **arguments)
    if root is None:
      raise ValueError(
        "give a workdir with a config, or generations=..., or denoiser=..."
      )
    return run(root, **arguments)


sys.modules[__name__].__class__ = _Callable

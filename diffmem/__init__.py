# SPDX-License-Identifier: Apache-2.0
"""diffmem measures what diffusion models memorize of their training data.

Importing it costs nothing: everything is loaded at first use, so that
`diffmem.distances.nearest(...)` works after `import diffmem` alone.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = frozenset(
  {
    "args",
    "arrays",
    "audit",
    "checkpoint",
    "data",
    "denoiser",
    "diffusion",
    "distances",
    "extraction",
    "features",
    "keys",
    "membership",
    "mesh",
    "models",
    "quality",
    "report",
    "sample",
    "stats",
    "store",
    "train",
    "workdir",
  }
)
_FUNCTIONS = {"open_bank": "diffmem.sample.bank"}


def __getattr__(name: str) -> Any:
  if name in _MODULES:
    return importlib.import_module(f"diffmem.{name}")
  if name in _FUNCTIONS:
    return getattr(importlib.import_module(_FUNCTIONS[name]), name)
  raise AttributeError(f"module 'diffmem' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({"__version__", *_MODULES, *_FUNCTIONS})

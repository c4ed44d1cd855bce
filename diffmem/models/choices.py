# SPDX-License-Identifier: Apache-2.0
"""One sentence for a name that is not among the choices."""

import difflib
from collections.abc import Collection


def choose(what: str, value: str, options: Collection[str]) -> None:
  """ValueError, with the choices and the nearest, if `value` is not one."""
  if value in options:
    return
  near = difflib.get_close_matches(str(value), options, n=1)
  hint = f"; did you mean {near[0]!r}?" if near else ""
  raise ValueError(
    f"unknown {what} {value!r}; expected one of {sorted(options)}{hint}"
  )

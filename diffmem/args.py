# SPDX-License-Identifier: Apache-2.0
"""A strict parser for the arguments of a config file.

`--config=configs/digits.py:debug,seed=3` hands the string `debug,seed=3` to
`get_config`, which parses it against its defaults:

  args = parse("debug,seed=3", debug=False, seed=0)
  args.debug, args.seed   # True, 3

A default gives its argument's name and type; a type in its place stands for
None unless given. A name alone means True.
"""

import difflib
import types

_TRUE = ("true", "1")
_FALSE = ("false", "0")


def parse(
  arg: str | None, **defaults: bool | int | float | str | type | None
) -> types.SimpleNamespace:
  """Parses `name=value,flag` into a namespace with the defaults' types.

  Args:
    arg: what follows the colon; empty or None gives the defaults.
    **defaults: bool, int, float or str; int, float, str or None (a str) for an
      argument that is None when not given.

  Returns:
    A namespace with exactly the names of the defaults.

  Raises:
    ValueError: an unknown or repeated name, or a value of another type.
  """
  values: dict = {
    name: None if isinstance(default, type) else default
    for name, default in defaults.items()
  }
  seen = set()
  for item in arg.split(",") if arg else ():
    if not item.strip():
      raise ValueError(f"config arguments {arg!r} hold an empty item")
    name, equals, text = (part.strip() for part in item.partition("="))
    if name not in defaults:
      raise ValueError(unknown("config argument", name, defaults))
    if name in seen:
      raise ValueError(f"config argument {name!r} is given twice in {arg!r}")
    seen.add(name)
    values[name] = _value(name, text if equals else None, defaults[name])
  return types.SimpleNamespace(**values)


def unknown(kind: str, name: str, options) -> str:
  """The message for a name that is none of the options."""
  options = sorted(options)
  near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
  guess = f"did you mean {near[0]!r}? " if near else ""
  listed = ", ".join(options) or "none"
  return f"unknown {kind} {name!r}: {guess}(options: {listed})"


def _value(name: str, text: str | None, default):
  """Converts the text of one argument to the type of its default."""
  if isinstance(default, bool):
    if text is None or text.lower() in _TRUE:
      return True
    if text.lower() in _FALSE:
      return False
    raise ValueError(f"config argument {name}={text!r}: expected true or false")
  kind = default if isinstance(default, type) else type(default)
  kind = str if default is None else kind
  if not text:
    raise ValueError(f"config argument {name!r} needs a value: {name}=...")
  try:
    return kind(text)
  except ValueError:
    raise ValueError(
      f"config argument {name}={text!r}: expected {_NAMES[kind]}"
    ) from None


_NAMES = {int: "a whole number", float: "a number", str: "text"}

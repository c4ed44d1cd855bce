# SPDX-License-Identifier: Apache-2.0
import pytest

from diffmem import args

DEFAULTS = dict(debug=False, big=True, seed=0, lr=0.5, name="a", path=None)


@pytest.mark.parametrize("arg", ["", None])
def test_nothing_given_is_the_defaults(arg):
  assert vars(args.parse(arg, **DEFAULTS)) == DEFAULTS


def test_types_come_from_the_defaults():
  given = args.parse(
    "debug,big=false,seed=-3,lr=1e-3,name=b=c,path=x:y", **DEFAULTS
  )
  assert vars(given) == dict(
    debug=True, big=False, seed=-3, lr=1e-3, name="b=c", path="x:y"
  )
  assert type(given.seed) is int
  assert type(given.lr) is float


def test_a_type_stands_for_none_unless_given():
  assert args.parse("", shadow=int, rate=float).shadow is None
  given = args.parse("shadow=3,rate=2", shadow=int, rate=float)
  assert (given.shadow, given.rate) == (3, 2.0)
  assert (type(given.shadow), type(given.rate)) == (int, float)
  with pytest.raises(ValueError, match=r"shadow='x': expected a whole number"):
    args.parse("shadow=x", shadow=int)


@pytest.mark.parametrize(
  ("text", "value"), [("true", True), ("1", True), ("0", False), ("False", 0)]
)
def test_booleans(text, value):
  assert args.parse(f"debug={text}", **DEFAULTS).debug is bool(value)


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("debgu", "unknown config argument 'debgu': did you mean 'debug'"),
    ("zzz=1", r"unknown config argument 'zzz': \(options: big, debug, lr"),
    ("debug=maybe", "debug='maybe': expected true or false"),
    ("debug=", "debug='': expected true or false"),
    ("seed=1.5", "seed='1.5': expected a whole number"),
    ("lr=fast", "lr='fast': expected a number"),
    ("seed", "'seed' needs a value: seed="),
    ("path", "'path' needs a value"),
    ("name=", "'name' needs a value"),
    ("seed=1,seed=2", "'seed' is given twice"),
    ("debug,,seed=1", "empty item"),
    ("debug,", "empty item"),
    (" ", "empty item"),
    ("=3", "unknown config argument ''"),
  ],
)
def test_nothing_is_forgiven(arg, message):
  with pytest.raises(ValueError, match=message) as error:
    args.parse(arg, **DEFAULTS)
  assert "\n" not in str(error.value)

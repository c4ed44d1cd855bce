# SPDX-License-Identifier: Apache-2.0
"""What train.privacy means, what is recorded, and what is refused."""

import pytest

from diffmem.train import accounting, privacy

SECTION = {
  "noise_multiplier": 4.0,
  "epsilon": None,
  "delta": 1e-4,
  "clip": 0.5,
  "microbatch": 16,
}


def _plan(rows=200, batch=20, **changes):
  section = SECTION | changes
  return privacy.plan({"batch": batch, "steps": 5, "privacy": section}, rows)


def test_without_the_section_there_is_none():
  assert privacy.plan({"batch": 20, "steps": 30}, 10) is None
  assert privacy.plan({"batch": 9, "steps": 9, "privacy": None}, 10) is None


def test_the_record_tells_the_unit_and_every_number_of_copies():
  found = _plan()
  assert found is not None
  record = found.record([1, 5, 5, 2])
  assert list(record["by_copies"]) == ["1", "2", "5"]
  options = dict(rate=0.1, steps=5, delta=1e-4)
  assert record["epsilon"] == accounting.epsilon(4.0, **options)
  assert record["by_copies"]["5"] == accounting.epsilon(
    4.0, **options, copies=5
  )
  assert (record["rows"], record["rate"], record["clip"]) == (200, 0.1, 0.5)
  assert "one row" in record["unit"]


def test_noise_follows_from_epsilon():
  found = _plan(noise_multiplier=None, epsilon=6.0)
  assert found is not None
  assert 5.98 < found.epsilon() <= 6.0


def test_clipping_alone_has_no_epsilon():
  found = _plan(noise_multiplier=0.0)
  assert found is not None
  assert found.record([1])["epsilon"] is None


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"delta": 1 / 200}, r"expected less than 1 / rows = 1 / 200"),
    ({"delta": 0.0}, "delta=0: expected less than"),
    ({"clip": 0.0}, "clip=0.0: expected a norm above 0"),
    ({"clip": -1.0}, "clip=-1.0: expected"),
    ({"batch": 201}, "train.batch=201 is more than the 200 rows"),
    ({"epsilon": 3.0}, "give one of the two"),
    ({"noise_multiplier": None}, "give one of the two"),
    ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0: expected 0"),
    (
      {"noise_multiplier": None, "epsilon": 0.0},
      "train.privacy: epsilon=0.0 is out of reach",
    ),
    ({"microbatch": 0}, "microbatch=0: expected 1 or more"),
    ({"clipp": 1.0}, "has the keys clip, clipp"),
  ],
)
def test_what_cannot_be_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _plan(**changes)

# SPDX-License-Identifier: Apache-2.0
"""Numbers as words."""

import pytest

from diffmem import stats
from diffmem.report import words


def test_counts_and_shares():
  assert words.count(1048576) == "1,048,576"
  assert words.several(1, "image") == "1 image"
  assert words.several(4096, "image") == "4,096 images"
  assert words.share(0) == "0%"
  assert words.share(0.01) == "1%"
  assert words.share(0.0367) == "3.7%"
  assert words.share(0.00004) == "0.004%"
  assert words.share(1) == "100%"
  assert words.interval((0.02, 0.0512)) == "2% to 5.1%"
  assert words.distance(0) == "0"
  assert words.distance(0.01234) == "0.0123"


def test_times():
  assert words.seconds(2.345) == "2.3 s"
  assert words.seconds(97.1) == "1 min 37 s"
  assert words.seconds(119.9) == "2 min 0 s"
  assert words.seconds(7322) == "2 h 2 min"
  assert words.seconds(None) == ""


def test_signs():
  assert words.signed(-0.254) == "−0.25"
  assert words.signed(58.14, ".3g") == "58.1"


def test_probabilities():
  assert words.probability(0.0312) == "0.031"
  assert words.probability(3e-7) == "below 10⁻⁶"
  assert words.probability(0.0) == "below 10⁻²⁹⁹"


def test_the_interval_is_that_of_stats():
  for k, n in ((0, 599), (4, 6), (6, 6)):
    assert words.exact_interval(k, n) == pytest.approx(
      stats.clopper_pearson(k, n)
    )
  assert words.exact_interval(0, 0) is None

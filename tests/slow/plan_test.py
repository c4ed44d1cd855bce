# SPDX-License-Identifier: Apache-2.0
"""The work of a cascade, whose networks take long to count."""

import pytest

from diffmem.audit import work
from diffmem.bin import program

pytestmark = pytest.mark.slow


def test_a_cascade_has_two_networks(root):
  config = program.load_config(
    f"{root}/configs/imagen_small.py:debug"
  ).to_dict()
  parts = work.parts(config, (16, 16, 1))
  assert [part.shape for part in parts] == [(8, 8, 1), (16, 16, 1)]
  works = work.count(config, 2400, parts)
  sampled = [w for w in works if w.stage == "sample"]
  images = 9 * 12  # prompts and images of each
  assert [w.units["calls"] for w in sampled] == [images * 4, images * 4]
  assert [w.disk for w in sampled] == [0.0, images * 256.0]
  assert "prompts" in work.unpriced(config)

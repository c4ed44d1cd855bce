# SPDX-License-Identifier: Apache-2.0
"""A rate predicts a run of eight times its largest size within a quarter.

In CPU seconds, which other processes of the machine disturb least. The rate
of the statistics is rough, and not held to it.
"""

import pytest

from diffmem.audit import rates, work
from diffmem.bin import program

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", range(4))
def test_eight_times_the_size(root, monkeypatch, number):
  monkeypatch.setattr(rates, "RUN", 2e9)
  monkeypatch.setattr(rates, "SIDES", {True: 2048, False: 1024})
  config = program.load_config(f"{root}/configs/digits.py").to_dict()
  other = program.load_config(f"{root}/configs/digits_membership.py")
  config["models"] = {**other.to_dict()["models"], "width": 128}
  config["membership"]["bootstrap"] = 200
  parts = work.parts(config, (8, 8, 1))
  job = rates.builders(config, parts)[number]()
  rate, (_, (predicted, measured)) = rates.beyond(job)
  assert 0.75 < measured / predicted < 1.25, (job.name, rate)


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

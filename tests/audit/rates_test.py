# SPDX-License-Identifier: Apache-2.0
"""Rates: of a clock that is known, and that every job of a config runs."""

import pytest

from diffmem.audit import planning, rates, work
from diffmem.bin import program


class Clock:
  """Seconds that a machine of known costs would need."""

  def __init__(self):
    self.seen = set()

  def timed(self, job, units):
    (count,) = units.values()
    first = 5.0 if not self.seen else 0.0
    self.seen.add(count)
    wall = 0.5 + 0.01 * count
    return wall + first, 2 * wall + first


@pytest.fixture
def config(root):
  found = program.load_config(f"{root}/configs/digits.py:debug").to_dict()
  other = program.load_config(f"{root}/configs/digits_membership.py")
  found["models"] = {**other.to_dict()["models"], "width": 16, "blocks": 1}
  found["membership"] |= dict(attacks=("loss",), bootstrap=10)
  found["membership"]["controls"]["permutations"] = 10
  return found


def test_costs_of_a_known_clock_are_found(monkeypatch):
  monkeypatch.setattr(rates, "_timed", Clock().timed)
  sizes = tuple({"calls": float(n)} for n in (100, 200, 400))
  job = rates.Job("x", "", sizes, {"calls": 3200.0}, lambda units: None)
  rate = rates.measure(job)
  assert rate.wall.fixed == pytest.approx(0.5)
  assert rate.wall.rates["calls"] == pytest.approx(0.01)
  assert rate.cpu.rates["calls"] == pytest.approx(0.02)
  assert rate.first == pytest.approx((5.0, 5.0))
  _, (wall, cpu) = rates.beyond(job)
  assert wall == pytest.approx((32.5, 32.5))
  assert cpu == pytest.approx((65.0, 65.0))


def test_every_job_runs_and_covers_the_work(config, monkeypatch):
  monkeypatch.setattr(rates, "RUN", 1.0)
  monkeypatch.setattr(rates, "SIDES", {True: 128, False: 128})
  parts = work.parts(config, (8, 8, 1))
  jobs = [build() for build in rates.builders(config, parts)]
  for job in jobs:
    job.run(job.sizes[0])
  wanted = {w.job: set(w.units) for w in work.count(config, 1797, parts)}
  assert {job.name: set(job.sizes[0]) for job in jobs} == wanted
  for job in jobs:
    (*_, size), unit = job.sizes, list(job.sizes[0])[-1]
    assert job.beyond[unit] == 8 * size[unit]


def test_batches_are_made_smaller_where_a_call_is_dear():
  assert rates._batch(128, 1e6, 1) == 128
  assert rates._batch(128, rates.CALL / 10, 1) == 10
  assert rates._batch(128, rates.CALL * 3, 1) == 1
  assert rates._batch(128, rates.CALL / 10, 8) == 8
  assert rates._batch(128, rates.CALL, 8) == 8


def test_rates_are_kept_until_something_changes(config, monkeypatch, tmp_path):
  clock, asked = Clock(), []
  job = rates.Job(
    "train base", "", tuple({"images": float(n)} for n in (1, 2, 4)),
    {"images": 32.0}, lambda units: None,
  )  # fmt: skip
  monkeypatch.setattr(rates, "_timed", clock.timed)
  monkeypatch.setattr(
    rates, "builders", lambda *_: [lambda: (asked.append(1), job)[1]]
  )
  lines = planning.run(tmp_path, config=config)
  again = planning.run(tmp_path, config=config)
  assert len(asked) == 1
  assert again[: len(lines) - 2] == lines[:-2]
  assert "kept in" in "\n".join(again)
  assert any(line.startswith("train base: ") for line in lines)
  config["train"]["steps"] = 40  # an amount: the rates stay
  planning.run(tmp_path, config=config)
  assert len(asked) == 1
  config["train"]["batch"] = 32
  planning.run(tmp_path, config=config)
  assert len(asked) == 2

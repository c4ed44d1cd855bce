# SPDX-License-Identifier: Apache-2.0
"""Costs against numbers worked out by hand."""

import pytest

from diffmem.report import hardware, plan, plan_published, plan_table
from diffmem.report.plan import Fit, Rate, Work


def work(stage="sample", **fields):
  return Work(stage, "in words", job="job", **fields)


def test_a_line_is_found_again():
  runs = [({"calls": n}, 0.5 + 0.002 * n) for n in (100.0, 200.0, 400.0)]
  found = plan.fit(runs)
  assert found.fixed == pytest.approx(0.5)
  assert found.rates["calls"] == pytest.approx(0.002)
  assert found.seconds({"calls": 3200.0}) == pytest.approx(6.9)
  assert found.residuals == pytest.approx([0.0] * 3)
  assert found.largest == {"calls": 400.0}


def test_two_units_are_told_apart():
  runs = [
    ({"queries": n, "pairs": n * m}, 1e-3 * n + 1e-6 * n * m)
    for n in (10.0, 40.0)
    for m in (100.0, 1000.0)
  ]
  found = plan.fit(runs)
  assert found.fixed == pytest.approx(0.0, abs=1e-9)
  assert found.rates == pytest.approx({"queries": 1e-3, "pairs": 1e-6})


def test_no_cost_is_negative():
  found = plan.fit([({"calls": n}, 4.0 - n) for n in (1.0, 2.0, 3.0)])
  assert found.fixed > 0
  assert found.rates["calls"] == 0.0
  # The least squares of relative errors: sum of 1/s over sum of 1/s^2.
  assert found.fixed == pytest.approx((1 / 3 + 1 / 2 + 1) / (1 / 9 + 1 / 4 + 1))


def test_what_cannot_be_fitted_is_refused():
  with pytest.raises(ValueError, match="1 runs for 2 costs"):
    plan.fit([({"calls": 1.0}, 1.0)])
  with pytest.raises(ValueError, match="expected some time"):
    plan.fit([({"calls": n}, 0.0) for n in (1.0, 2.0)])
  fitted = Fit(0.0, {"calls": 1.0}, (), {})
  with pytest.raises(ValueError, match="units pairs: the rate has calls"):
    fitted.seconds({"pairs": 1.0})


def test_measured_costs_by_hand():
  wall = Fit(0.5, {"calls": 0.01}, (), {})
  cpu = Fit(1.0, {"calls": 0.02}, (), {})
  rates = {"job": Rate(wall, cpu, (3.0, 4.0), "")}
  works = [
    work(units={"calls": 1000.0}, starts=2, memory=(10.0, 80.0)),
    work(units={"calls": 100.0}, divided=False),
    Work("host", "of a job that was not measured", job="other"),
  ]
  one, alone, other = plan.measured(works, rates)
  assert one.seconds == pytest.approx(2 * (3.0 + 0.5 + 5.0))
  assert one.cpu == pytest.approx(2 * (4.0 + 1.0 + 10.0))
  assert one.memory == 90.0
  assert other.seconds is None
  eight = plan.measured(works, rates, devices=8)
  share = 1.16 / 8
  assert eight[0].seconds == pytest.approx(2 * (3.5 + 5.0 * share))
  assert eight[0].cpu == one.cpu
  assert eight[0].memory == 20.0
  assert eight[1].seconds == alone.seconds == pytest.approx(4.5)


def test_stated_costs_by_hand():
  device = hardware.Hardware("x", {"int8": 1e12}, 1e9, 1e10, "a page")
  works = [
    work(flops=1e13, kind="int8", moved=1e11),  # 20 s against 10 s
    work(flops=1e12, kind="int8", moved=1e12),  # 2 s against 100 s
    work(),
  ]
  costs = plan.stated(works, device, utilisation=0.5)
  assert [c.seconds for c in costs] == [20.0, 100.0, None]
  assert [c.limit for c in costs] == ["compute", "bandwidth", "unknown"]
  (half, *_) = plan.stated(works, device, utilisation=0.5, devices=2)
  assert half.seconds == pytest.approx(20.0 * 1.16 / 2)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"utilisation": 0.0}, "utilisation = 0.0"),
    ({"utilisation": 1.5}, "utilisation = 1.5"),
    ({"utilisation": 0.5, "devices": 0}, "devices = 0"),
  ],
)
def test_shares_and_devices_that_cannot_be(options, message):
  with pytest.raises(ValueError, match=message):
    plan.stated([], hardware.named("h100"), **options)


def test_unknown_hardware_lists_what_there_is():
  with pytest.raises(ValueError, match="a100, h100, here, tpu-v5e"):
    hardware.named("v100")


def test_the_bottleneck_is_a_stage_with_all_its_works():
  device = hardware.Hardware("x", {"int8": 1.0}, 1.0, 1.0, "")
  sizes = (("train", 3.0), ("sample", 2.0), ("sample", 2.5))
  works = [work(stage, flops=f, kind="int8") for stage, f in sizes]
  costs = plan.stated(works, device, utilisation=1.0)
  assert plan.bottleneck(costs) == ("sample", pytest.approx(0.6))
  assert plan.bottleneck([]) is None


def test_the_table_says_what_is_not_known():
  device = hardware.Hardware("x", {"int8": 1.0}, 1.0, 1.0, "")
  works = [work(flops=7200.0, kind="int8", disk=5e9), work("host")]
  costs = plan.stated(works, device, utilisation=1.0)
  header, one, two, total, last = plan_table.lines(costs)
  assert header.split()[:2] == ["stage", "work"]
  assert one.split("  ")[-1] == "compute"
  assert "120 min" in one
  assert "5 GB" in one
  assert "unknown" in two
  assert "without what is unknown" in total
  assert last == "bottleneck: sample, 100% of the time"


def test_the_table_has_cpu_time_where_it_was_measured():
  rates = {
    "job": Rate(
      Fit(0.0, {"calls": 1.0}, (), {}),
      Fit(0.0, {"calls": 2.0}, (), {}),
      (0.0, 0.0),
      "",
    )
  }
  costs = plan.measured(
    [work(units={"calls": 10.0}), Work("host", "not measured")], rates
  )
  header, one, *_ = plan_table.lines(costs)
  assert "CPU time" in header
  assert "10 s" in one
  assert one.index("20 s") == header.index("CPU time")


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0.164, "0.164 s"),
    (179.0, "179 s"),
    (600.0, "10 min"),
    (36_000.0, "10 h"),
    (86_400.0 * 80, "80 days"),
    (86_400.0 * 1096, "1,096 days"),
  ],
)
def test_durations(seconds, text):
  assert plan_table.duration(seconds) == text


def test_studies_by_hand():
  (exact,) = plan_published.duplicates(
    method="exact",
    vectors=1000,
    dims=8,
    dtype="bfloat16",
    block=100,
    lists=10,
    probes=2,
    trained_on=50,
    iterations=3,
  )
  pairs = 1000 * 999 / 2
  assert exact.flops == 16 * pairs
  assert exact.disk == 16_000
  assert exact.moved == 8 * pairs + 5 * 16_000
  sample, decode, compare = plan_published.prompts(
    prompts=3,
    per_prompt=10,
    steps=5,
    guided=True,
    call=7,
    decode=11,
    params=100,
    dtype="bfloat16",
    batch=2,
    side=4,
    channels=3,
  )
  assert sample.flops == 30 * 10 * 7
  assert sample.disk == 30 * 48
  assert decode.flops == 30 * 11
  assert compare.flops == 2 * 48 * 3 * 45


def test_an_inverted_file_compares_less():
  options = dict(
    vectors=10**6,
    dims=64,
    dtype="bfloat16",
    block=1000,
    lists=1000,
    probes=10,
    trained_on=10**5,
    iterations=10,
  )
  lists, search = plan_published.duplicates(method="inverted", **options)
  assert search.flops == 2 * 64 * 10**6 * (1000 + 10_000)
  assert lists.flops == 2 * 64 * 10 * 10**5 * 1000
  with pytest.raises(ValueError, match=r"unknown plan\.method 'graph'"):
    plan_published.duplicates(method="graph", **options)
  with pytest.raises(ValueError, match=r"unknown plan\.study 'x'"):
    plan_published.works({"study": "x"})

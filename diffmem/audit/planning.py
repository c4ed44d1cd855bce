# SPDX-License-Identifier: Apache-2.0
"""A plan: the work of a config, priced, on disk and as text.

Writes <root>/plan:

  plan.json   what was planned: costs by stage, on what, by which assumptions
  rates.json  rates measured here, see `rates`
"""

import os
from typing import Any

from diffmem import processes, workdir
from diffmem.report import hardware as stated
from diffmem.report import plan, plan_published, plan_table


@processes.led
def run(
  root: str | os.PathLike,
  *,
  config: dict,
  hardware: str = "here",
  devices: int = 1,
  utilisation: float | None = None,
  images: str | None = None,
) -> list[str]:
  """Plans, and returns the lines to print.

  Args:
    root: the workdir.
    config: plain sections: an experiment that trains, or a section `plan`.
    hardware: "here", or a name in `hardware.HARDWARE`.
    devices: how many share the work.
    utilisation: of stated hardware; None for `hardware.UTILISATION`.
    images: NxHxWxC of the source; None to read it.

  Raises:
    ValueError: unknown hardware, or a config without what is planned.
  """
  device = None if hardware == "here" else stated.named(hardware)
  if device is None and utilisation is not None:
    raise ValueError(
      f"--utilisation={utilisation} is of stated hardware: here it is measured"
    )
  share = stated.UTILISATION if utilisation is None else utilisation
  left: list[str] = []
  said: list[str] = []
  if config.get("plan") is not None:
    works = plan_published.works(config["plan"])
    if device is None:
      raise ValueError(
        "the study of this config is of models that cannot be measured here: "
        f"give --hardware, one of {', '.join(stated.HARDWARE)}"
      )
    costs = plan.stated(works, device, devices=devices, utilisation=share)
  else:
    # Here, and not above: studies need no model.
    from diffmem.audit import work

    work.check(config)
    n, shape = work.size(images, config["data"])
    parts = work.parts(config, shape)
    works = work.count(config, n, parts)
    left = work.unpriced(config)
    if device is None:
      from diffmem.audit import rates

      known = rates.known(root, config=config, parts=parts)
      costs = plan.measured(works, known.rates, devices=devices)
      said = [known.says, *plan_table.fits(known.rates)]
    else:
      costs = plan.stated(works, device, devices=devices, utilisation=share)
  text = plan_table.lines(costs, devices=devices)
  text += _on(device, devices, share, costs)
  if left:
    text.append(f"not priced: {', '.join(left)}")
  _write(root, config, costs, text)
  return [*text, *said]


def _on(
  device: stated.Hardware | None,
  devices: int,
  share: float,
  costs: list[plan.Cost],
) -> list[str]:
  """What the numbers rest on."""
  found = []
  if devices > 1:
    found.append(
      f"{devices} devices at an assumed efficiency of {stated.EFFICIENCY:.2f}"
    )
  if device is None:
    return found
  found.insert(
    0,
    f"not measured: {device.name}, by {device.source}, at an assumed "
    f"{share:.0%} of its peak",
  )
  for cost in costs:
    if cost.memory > device.memory:
      found.append(
        f"{cost.work.stage} needs {plan_table.size(cost.memory)} on each "
        f"device, which has {plan_table.size(device.memory)}: more devices, or "
        "smaller batches"
      )
  return found


def _write(
  root: str | os.PathLike,
  config: dict[str, Any],
  costs: list[plan.Cost],
  text: list[str],
) -> None:
  folder = workdir.path(root) / "plan"
  folder.mkdir(parents=True, exist_ok=True)
  found = {"config": config, "costs": plan.record(costs), "text": text}
  workdir.write_json(folder / "plan.json", found)
